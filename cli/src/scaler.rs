//! `tutti scaler-metrics`: the signal of a fleet of gateways.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use tutti_api::Address;
use tutti_gateway::drive::ReleaseMetrics;
use tutti_scaler_metrics::{GrpcTls, Options, Scaler, Service, Where};

use crate::drive::Driving;
use crate::gateway::{Ends, Hangup, run};

#[derive(Args, Clone, Debug)]
pub(crate) struct ScalerMetrics {
    #[command(flatten)]
    driving: Driving,
    #[command(flatten)]
    gateways: Gateways,
    /// Where KEDA's external scaler asks, by gRPC (`scalerAddress`)
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:11520")]
    grpc: Address,
    /// Where /metrics, /v1/metrics/POOL, /status, /healthz and /readyz are
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:11521")]
    listen: Address,
    /// In Kubernetes, the namespace of the replicas' Pods: those that work, or alone have weights in memory that are in use, are
    /// marked (`controller.kubernetes.io/pod-deletion-cost`), so that others are ended before them. The account must be allowed
    /// to list and patch Pods there
    #[arg(long, value_name = "NAMESPACE")]
    spare_pods: Option<String>,
    /// The certificate that KEDA sees, and its chain, in PEM; with a certificate nobody is answered who has none of --client-ca's
    #[arg(long, value_name = "FILE", requires = "key", requires = "client_ca")]
    cert: Option<String>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<String>,
    /// Who signs KEDA's certificates, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    client_ca: Option<String>,
}

/// Where the gateways' ops ports are.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
struct Gateways {
    /// The gateways' ops addresses (`gateway.ops`), one by one
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    gateways: Vec<Address>,
    /// A name whose addresses the gateways have, as of a headless Service, and their ops port
    #[arg(long, value_name = "NAME:PORT")]
    dns: Option<Address>,
    /// A Service in Kubernetes before the gateways, and their ops port; its EndpointSlices are read by the Pod's own account
    #[arg(long, value_name = "NAMESPACE/NAME:PORT")]
    endpoint_slices: Option<Service>,
}

impl ScalerMetrics {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let Gateways { gateways, dns, endpoint_slices } = &self.gateways;
        if gateways.is_empty() && dns.is_none() && endpoint_slices.is_none() {
            if self.driving.drive {
                return run(Hangup::Ends, async |ends| self.driving.run(ReleaseMetrics::default(), ends).await);
            }
            bail!("say where the gateways are, with --gateways, --dns or --endpoint-slices; or --drive their releases");
        }
        let gateways = match (&self.gateways.dns, &self.gateways.endpoint_slices) {
            (Some(name), _) => Where::Dns(name.clone()),
            (_, Some(service)) => Where::Slices(service.clone()),
            _ => Where::List(self.gateways.gateways.clone()),
        };
        let tls = match (&self.cert, &self.key, &self.client_ca) {
            (Some(cert), Some(key), Some(ca)) => {
                Some(GrpcTls { cert: cert.clone(), key: key.clone(), client_ca: ca.clone() })
            }
            _ => None,
        };
        let options = Options {
            gateways,
            grpc: self.grpc.clone(),
            listen: self.listen.clone(),
            spare: self.spare_pods.clone(),
            tls,
            releases: ReleaseMetrics::default(),
        };
        run(Hangup::Ends, async |ends| serve(&options, &self.driving, ends).await)
    }
}

async fn serve(options: &Options, driving: &Driving, ends: &mut Ends) -> Result<ExitCode> {
    let scaler = Scaler::open(options).await.map_err(|why| anyhow!(why))?;
    let (grpc, listen) = scaler.addresses()?;
    tracing::info!(%grpc, %listen, "tutti tells what is wanted");
    if driving.drive {
        return tokio::select! {
            () = scaler.run() => Ok(ExitCode::SUCCESS),
            ended = driving.run(options.releases.clone(), ends) => ended,
        };
    }
    tokio::select! {
        () = scaler.run() => {}
        () = ends.come() => {}
    }
    Ok(ExitCode::SUCCESS)
}
