//! The five RPCs. None of them waits for anything but memory.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures::{Stream, StreamExt, stream};
use hsm_proto::deviceplugin as wire;
use hsm_proto::deviceplugin::device_plugin_server::DevicePlugin;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::device::shown;
use crate::preferred::choose;
use crate::register::options;
use crate::{Allocator, DeviceId, Health, Inventory, Observer, PluginDevice};

/// One server's side of the protocol.
pub(crate) struct Service {
    pub(crate) inventory: Inventory,
    pub(crate) allocator: Arc<dyn Allocator>,
    pub(crate) observer: Arc<dyn Observer>,
    /// How many ListAndWatch streams are open.
    pub(crate) streams: watch::Sender<usize>,
    /// Ends the streams, which would otherwise hold the server open.
    pub(crate) stop: CancellationToken,
}

impl Service {
    /// Checks that each id is of a device that may be given out now.
    fn admit(&self, ids: &[String]) -> Result<Vec<DeviceId>, Status> {
        if ids.is_empty() {
            return Err(Status::invalid_argument("no device was asked for"));
        }
        let devices = shown(&self.inventory.borrow());
        let admit = |id: &String| {
            let device = devices.iter().find(|device| device.id.as_str() == id);
            match device {
                Some(PluginDevice { health: Health::Healthy, id, .. }) => Ok(id.clone()),
                Some(_) => Err(Status::failed_precondition(format!("device {id} is unhealthy"))),
                None => Err(Status::not_found(format!("device {id} is not on this node"))),
            }
        };
        ids.iter().map(admit).collect()
    }

    fn answer(&self, request: &wire::AllocateRequest) -> Result<wire::AllocateResponse, Status> {
        // All containers are checked before the allocator hears of the first.
        let containers =
            request.container_requests.iter().map(|container| self.admit(&container.devices_ids));
        let containers: Vec<_> = containers.collect::<Result<_, _>>()?;
        let allocate = |ids: &Vec<DeviceId>| match self.allocator.allocate(ids) {
            Ok(answer) => Ok(answer.into()),
            Err(refusal) => Err(Status::failed_precondition(refusal.to_string())),
        };
        let container_responses = containers.iter().map(allocate).collect::<Result<_, _>>()?;
        Ok(wire::AllocateResponse { container_responses })
    }
}

type Lists = Pin<Box<dyn Stream<Item = Result<wire::ListAndWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = Lists;

    async fn get_device_plugin_options(
        &self,
        _: Request<wire::Empty>,
    ) -> Result<Response<wire::DevicePluginOptions>, Status> {
        Ok(Response::new(options()))
    }

    async fn list_and_watch(&self, _: Request<wire::Empty>) -> Result<Response<Lists>, Status> {
        let counted = Counted::new(self.streams.clone());
        let lists = stream::unfold(
            (self.inventory.clone(), None, counted),
            |(mut inventory, last, counted)| async move {
                let list = changed(&mut inventory, last.as_ref()).await?;
                let devices = list.iter().cloned().map(Into::into).collect();
                Some((Ok(wire::ListAndWatchResponse { devices }), (inventory, Some(list), counted)))
            },
        );
        Ok(Response::new(Box::pin(lists.take_until(self.stop.clone().cancelled_owned()))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<wire::PreferredAllocationRequest>,
    ) -> Result<Response<wire::PreferredAllocationResponse>, Status> {
        let devices = shown(&self.inventory.borrow());
        let prefer = |container: &wire::ContainerPreferredAllocationRequest| {
            let size = usize::try_from(container.allocation_size)
                .map_err(|_| Status::invalid_argument("a negative number of devices was asked for"))?;
            choose(&devices, &container.available_device_i_ds, &container.must_include_device_i_ds, size)
                .map(|device_i_ds| wire::ContainerPreferredAllocationResponse { device_i_ds })
                .map_err(|error| Status::invalid_argument(error.to_string()))
        };
        let container_responses =
            request.get_ref().container_requests.iter().map(prefer).collect::<Result<_, _>>()?;
        Ok(Response::new(wire::PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<wire::AllocateRequest>,
    ) -> Result<Response<wire::AllocateResponse>, Status> {
        let begun = Instant::now();
        let answer = self.answer(request.get_ref());
        self.observer.allocation(answer.is_ok(), begun.elapsed());
        if let Err(status) = &answer {
            tracing::warn!(reason = status.message(), "An allocation was refused");
        }
        answer.map(Response::new)
    }

    async fn pre_start_container(
        &self,
        request: Request<wire::PreStartContainerRequest>,
    ) -> Result<Response<wire::PreStartContainerResponse>, Status> {
        // The options say that we need no such call; one that comes is answered for what it names.
        self.admit(&request.get_ref().devices_ids)?;
        Ok(Response::new(wire::PreStartContainerResponse {}))
    }
}

/// The next list that differs from the last one sent; `None` when there will be no more.
async fn changed(inventory: &mut Inventory, last: Option<&Vec<PluginDevice>>) -> Option<Vec<PluginDevice>> {
    loop {
        if last.is_some() {
            inventory.changed().await.ok()?;
        }
        let list = shown(&inventory.borrow_and_update());
        if last != Some(&list) {
            return Some(list);
        }
    }
}

/// Counts an open stream as long as it lives.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(streams: watch::Sender<usize>) -> Self {
        streams.send_modify(|count| *count += 1);
        Self(streams)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
