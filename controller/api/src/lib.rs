//! The custom resources `HSMSecret` and `HSMDevice`, with their conditions, reasons and labels.

mod condition;
#[allow(unreachable_pub, reason = "KubeSchema derives its schema on a second, local struct")]
mod device;
#[allow(unreachable_pub, reason = "KubeSchema derives its schema on a second, local struct")]
mod device_status;
pub mod names;
mod reason;
mod schema;
#[allow(unreachable_pub, reason = "KubeSchema derives its schema on a second, local struct")]
mod secret;
#[allow(unreachable_pub, reason = "KubeSchema derives its schema on a second, local struct")]
mod secret_status;

pub use condition::{ConditionStatus, condition, set_condition};
pub use device::{
    Access, DevicePath, DeviceType, Discovery, Encryption, HSMDevice, HSMDeviceSpec, Mirroring,
    MirroringPolicy, PathGrant, PinSecret, Pkcs11, UsbSelector,
};
pub use device_status::{DevicePhase, DiscoveredDevice, HSMDeviceStatus};
pub use reason::Reason;
pub use secret::{
    AdoptionPolicy, Charset, ConflictPolicy, DeletionPolicy, Generate, HSMSecret, HSMSecretSpec, ParentRef,
    SecretTemplate, SyncPolicy, TemplateMetadata,
};
pub use secret_status::{HSMSecretStatus, MirrorStatus, PrimaryStatus, SecretRef, SyncStatus};
