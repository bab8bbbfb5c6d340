//! What is said of HSMDevices for now: one condition, which tells that they are stored and not acted on yet, or what
//! is wrong with them.

use futures::StreamExt as _;
use hsm_api::{ConditionStatus, HSMDevice, HSMDeviceStatus, Reason, condition, names, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use serde_json::json;

/// Follows the HSMDevices, for ever. `everywhere`: those of other namespaces too, to say that they do not count.
pub(crate) async fn follow(client: Client, own: String, everywhere: bool) {
    let api: Api<DeserializeGuard<HSMDevice>> =
        if everywhere { Api::all(client.clone()) } else { Api::namespaced(client.clone(), &own) };
    let mut stream =
        std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while let Some(event) = stream.next().await {
        // The index's own watch logs interruptions.
        let Ok(DeserializeGuard(Ok(device))) = event else { continue };
        let (Some(namespace), Some(name)) = (&device.metadata.namespace, &device.metadata.name) else {
            continue;
        };
        let now = Timestamp::now();
        let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        let old = device.status.clone().unwrap_or_default();
        let new = next(&device, &old, &own, &now);
        if new == old {
            continue;
        }
        let patch = json!({
            "metadata": { "uid": device.metadata.uid },
            "status": { "observedGeneration": new.observed_generation, "conditions": new.conditions },
        });
        let params = PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
        let api: Api<HSMDevice> = Api::namespaced(client.clone(), namespace);
        if let Err(error) = api.patch_status(name, &params, &Patch::Merge(patch)).await {
            let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
            tracing::warn!(namespace, name, code, "the status of an HSMDevice could not be written");
        }
    }
}

fn next(device: &HSMDevice, old: &HSMDeviceStatus, own: &str, now: &Time) -> HSMDeviceStatus {
    let elsewhere = device.metadata.namespace.as_deref() != Some(own);
    let pin = device.spec.pkcs11.as_ref().and_then(|p| p.pin_secret.as_ref()?.namespace.as_deref());
    let wrong = if elsewhere {
        Some(format!("HSMDevices count only in the operator's namespace {own}; make it there"))
    } else if pin.is_some_and(|ns| ns != own) {
        Some(format!("pkcs11.pinSecret must lie in {own}"))
    } else {
        device.spec.discovery.as_ref().and_then(|d| d.usb_selectors().err())
    };
    let generation = device.metadata.generation;
    let ready = match wrong {
        Some(message) => {
            condition(names::READY, ConditionStatus::False, Reason::InvalidSpec, message, generation, now)
        }
        None => condition(
            names::READY,
            ConditionStatus::Unknown,
            Reason::FieldNotYetActive,
            "stored; of its fields this version acts on pathGrants only",
            generation,
            now,
        ),
    };
    let mut new = HSMDeviceStatus { observed_generation: generation, ..old.clone() };
    set_condition(&mut new.conditions, ready);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(namespace: &str, spec: &serde_json::Value) -> HSMDevice {
        serde_json::from_value(json!({
            "apiVersion": "hsm.j5t.io/v1alpha1", "kind": "HSMDevice",
            "metadata": {"name": "d", "namespace": namespace, "generation": 2}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_device_elsewhere_or_malformed_is_told_so_and_told_once() {
        let now = Time(Timestamp::from_second(1).unwrap());
        let pico = json!({"deviceType": "PicoHSM"});
        let word =
            |d: &HSMDevice| next(d, &HSMDeviceStatus::default(), "sys", &now).conditions[0].reason.clone();
        assert_eq!(word(&device("sys", &pico)), "FieldNotYetActive");
        assert_eq!(word(&device("other", &pico)), "InvalidSpec");
        let usb =
            json!({"deviceType": "Generic", "discovery": {"usb": [{"vendorId": "zz", "productId": "1"}]}});
        assert_eq!(word(&device("sys", &usb)), "InvalidSpec");
        let pin = json!({"deviceType": "PicoHSM", "pkcs11": {"pinSecret": {"name": "n", "key": "k", "namespace": "x"}}});
        assert_eq!(word(&device("sys", &pin)), "InvalidSpec");
        let one = device("sys", &pico);
        let told = next(&one, &HSMDeviceStatus::default(), "sys", &now);
        let later = Time(Timestamp::from_second(9).unwrap());
        assert_eq!(next(&one, &told, "sys", &later), told);
    }
}
