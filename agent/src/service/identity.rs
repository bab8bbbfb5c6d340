//! Identity: who the agent is and how it is. Touches neither bus nor token.

use std::sync::Arc;

use hsm_proto::agent::{
    Capability, ConfigureRequest, ConfigureResponse, GetAgentInfoRequest, GetAgentInfoResponse,
    GetCapabilitiesRequest, GetCapabilitiesResponse, ProbeRequest, ProbeResponse, identity_server::Identity,
};
use tonic::{Request, Response, Status};

use super::{Agent, fail, request_id};
use crate::config::{COMMIT, VERSION};
use crate::error::{Kind, OpError};
use crate::state::ConfigureError;

/// See the module.
pub struct IdentityService(pub Arc<Agent>);

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_agent_info(
        &self,
        _: Request<GetAgentInfoRequest>,
    ) -> Result<Response<GetAgentInfoResponse>, Status> {
        Ok(Response::new(GetAgentInfoResponse {
            node_name: self.0.node_name.clone(),
            version: VERSION.to_owned(),
            commit: COMMIT.to_owned(),
            instance: self.0.instance.clone(),
        }))
    }

    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        let capabilities = [
            Capability::Records,
            Capability::Replicate,
            Capability::Unlock,
            Capability::ChangePin,
            Capability::Initialize,
            Capability::Random,
            Capability::Configure,
        ];
        Ok(Response::new(GetCapabilitiesResponse {
            capabilities: capabilities.iter().map(|c| *c as i32).collect(),
            max_record_size: super::records::MAX_RECORD,
        }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let ready = self.0.ready();
        let reason = if ready { String::new() } else { "the agent is stopping".to_owned() };
        Ok(Response::new(ProbeResponse { alive: true, ready, reason }))
    }

    async fn configure(
        &self,
        request: Request<ConfigureRequest>,
    ) -> Result<Response<ConfigureResponse>, Status> {
        let id = request_id(&request);
        // A file of a few kB is written; the channel's short lock is not held over an await.
        match self.0.configured.apply(request.into_inner()) {
            Ok(generation) => Ok(Response::new(ConfigureResponse { generation })),
            Err(error) => {
                let kind = match error {
                    ConfigureError::Older { .. } | ConfigureError::Changed(_) => Kind::Refused,
                    ConfigureError::Io(_) => Kind::Internal,
                };
                Err(fail("configure", &OpError::new(kind, None, error.to_string()), &id))
            }
        }
    }
}
