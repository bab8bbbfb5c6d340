//! Compiles the protos with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["agent/v1/agent.proto", "kubelet/deviceplugin/v1beta1/api.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        // Payloads, PINs and digests must not be printable: logging one of these does not compile.
        .skip_debug([
            ".hsm.agent.v1.Content",
            ".hsm.agent.v1.Record",
            ".hsm.agent.v1.GetRecordResponse",
            ".hsm.agent.v1.PutRecordRequest",
            ".hsm.agent.v1.UnlockTokenRequest",
            ".hsm.agent.v1.ChangePinRequest",
            ".hsm.agent.v1.InitializeTokenRequest",
            ".hsm.agent.v1.GenerateRandomResponse",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
