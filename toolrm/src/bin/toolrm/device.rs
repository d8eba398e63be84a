//! Where embeddings are compared: `--device`.

use anyhow::Result;
use clap::ValueEnum;
use toolrm::{Embeddings, Item, Sample, SampleOptions, bmds};

use crate::common::Usage;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceArg {
    Cpu,
    /// The first GPU; an error where there is none.
    Cuda,
}

/// What compares.
pub(crate) enum Device {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(Box<toolrm::kernels::Chooser>),
}

impl Device {
    /// A device for groups whose embeddings have at least `least` numbers.
    pub(crate) fn open(device: DeviceArg, least: usize) -> Result<Self> {
        if device == DeviceArg::Cpu {
            return Ok(Device::Cpu);
        }
        Device::cuda(least).map_err(|reason| Usage(format!("--device cuda: {reason}")).into())
    }

    #[cfg(feature = "cuda")]
    fn cuda(least: usize) -> Result<Self, cuda_twin::Error> {
        let chooser = cuda_twin::Gpu::cuda(0).and_then(|gpu| toolrm::kernels::Chooser::new(gpu, least))?;
        Ok(Device::Cuda(Box::new(chooser)))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_least: usize) -> Result<Self, &'static str> {
        Err("this program was built without the feature `cuda`")
    }

    /// A sample whose groups give embeddings far from one another.
    pub(crate) fn sample(
        &mut self,
        items: &[Item<'_>],
        options: &SampleOptions,
        embeddings: &Embeddings,
    ) -> Result<Sample> {
        match self {
            Device::Cpu => Ok(bmds(items, options, Some(embeddings))?),
            #[cfg(feature = "cuda")]
            Device::Cuda(chooser) => {
                toolrm::bmds_by(items, options, |pool, quota| Ok(chooser.choose(embeddings, pool, quota)?))
            }
        }
    }

    /// Groups that were compared on the device and on the CPU, and where the device's time went.
    pub(crate) fn report(&self) -> (Vec<(&'static str, u64)>, String) {
        match self {
            Device::Cpu => Default::default(),
            #[cfg(feature = "cuda")]
            Device::Cuda(chooser) => {
                let [transfer, device] =
                    [chooser.timing.transfer, chooser.timing.device].map(|t| t.as_secs_f64());
                let counts = vec![("groups.device", chooser.on_device), ("groups.cpu", chooser.on_cpu)];
                (counts, format!("transfer {transfer:.3} s, device {device:.3} s\n"))
            }
        }
    }
}
