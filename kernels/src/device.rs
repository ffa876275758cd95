//! Which device computes: parses the user's choice (`auto`, `cpu`, `wgpu:1`, `cuda:0`), lists what
//! this machine has, and opens one. Asking never panics: a missing driver or adapter is a
//! [`DeviceError`].

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use burn::tensor::wgpu::WgpuInitError;
use burn::tensor::{Device, DeviceKind, DeviceType};

/// What the user asked for with `--device`.
///
/// ```
/// use lapidary_kernels::device::{self, DeviceChoice};
///
/// let choice: DeviceChoice = "cpu".parse()?;
/// let device = device::open(choice)?;
/// assert_eq!(choice.to_string(), "cpu");
/// # let _ = device;
/// # Ok::<(), device::DeviceError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceChoice {
    /// CUDA if a driver and card are there, else a hardware WGPU adapter, else the CPU.
    #[default]
    Auto,
    /// The CPU backend (Burn's flex).
    Cpu,
    /// The nth WGPU adapter of [`list`]; without a number the first, hardware before software.
    Wgpu(Option<usize>),
    /// The nth CUDA card; without a number the first.
    Cuda(Option<usize>),
}

/// Why a device could not be named or opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The text names no device.
    #[error(
        "unknown device \"{found}\": expected auto, cpu, wgpu, wgpu:N, cuda or cuda:N (N a number from 0)"
    )]
    Unknown {
        /// The text that was given.
        found: String,
    },
    /// This program was built without CUDA.
    #[error(
        "device {choice} asked for, but this program was built without CUDA; rebuild it with `--features cuda`, or use wgpu or cpu"
    )]
    NotBuiltWithCuda {
        /// The choice that asked for CUDA.
        choice: DeviceChoice,
    },
    /// No CUDA driver or card answers.
    #[error(
        "device {choice} asked for, but no NVIDIA driver with a CUDA card was found on this machine"
    )]
    NoCudaDriver {
        /// The choice that asked for CUDA.
        choice: DeviceChoice,
    },
    /// No graphics adapter answers.
    #[error(
        "device {choice} asked for, but no graphics adapter was found (WGPU needs a Vulkan, Metal, DX12 or OpenGL driver)"
    )]
    NoAdapter {
        /// The choice that asked for WGPU.
        choice: DeviceChoice,
    },
    /// There are devices of the kind, but not that many.
    #[error("device {choice} asked for, but this machine has only {count}, numbered from 0")]
    IndexTooLarge {
        /// The choice that was too large.
        choice: DeviceChoice,
        /// How many there are.
        count: usize,
    },
    /// The adapter is there, but refused to open.
    #[error("device {choice} was found but could not be opened: {reason}")]
    CannotOpen {
        /// The choice that was found.
        choice: DeviceChoice,
        /// What the graphics driver said.
        reason: String,
    },
}

/// One device of this machine, as [`list`] found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// How to ask for it.
    pub choice: DeviceChoice,
    /// What the device calls itself; for one that refuses to open, why.
    pub name: String,
    /// True for a WGPU adapter that is a software rasterizer (lavapipe, WARP): it computes right,
    /// but slowly.
    pub software: bool,
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Wgpu(None) => f.write_str("wgpu"),
            Self::Wgpu(Some(n)) => write!(f, "wgpu:{n}"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(n)) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown { found: text.into() };
        let (kind, index) = match text.split_once(':') {
            None => (text, None),
            Some((kind, index)) => (kind, Some(index.parse().map_err(|_| unknown())?)),
        };
        match (kind, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index)),
            _ => Err(unknown()),
        }
    }
}

/// Keeps the graphics loader from complaining on standard error where no desktop set
/// `XDG_RUNTIME_DIR`; nothing of ours uses that folder. Call it first thing in `main`: it does
/// nothing once the program has other threads, or where it cannot be known (beside Linux).
pub fn quiet_loader() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() && crate::threads::this_is_the_only_one() {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
}

/// The device of that choice, ready to compute; without gradients (call `.autodiff()` on it for
/// those).
pub fn open(choice: DeviceChoice) -> Result<Device, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::flex()),
        DeviceChoice::Auto => {
            if let Some(card) = cuda_cards().into_iter().next() {
                return Ok(card);
            }
            let hardware = adapters().into_iter().find(|adapter| !adapter.software);
            Ok(hardware
                .and_then(|adapter| adapter.open(choice).ok())
                .unwrap_or_else(Device::flex))
        }
        DeviceChoice::Wgpu(index) => {
            let adapters = adapters();
            if adapters.is_empty() {
                return Err(DeviceError::NoAdapter { choice });
            }
            nth(adapters, index, choice)?.open(choice)
        }
        DeviceChoice::Cuda(index) => {
            if cfg!(not(feature = "cuda")) {
                return Err(DeviceError::NotBuiltWithCuda { choice });
            }
            let cards = cuda_cards();
            if cards.is_empty() {
                return Err(DeviceError::NoCudaDriver { choice });
            }
            nth(cards, index, choice)
        }
    }
}

/// Every device of this machine that this program can use: the CPU, then CUDA cards, then WGPU
/// adapters, hardware first. An NVIDIA card appears under both CUDA and WGPU.
pub fn list() -> Vec<DeviceInfo> {
    let mut found = vec![DeviceInfo {
        choice: DeviceChoice::Cpu,
        name: "CPU".into(),
        software: false,
    }];
    let name = |device: &Device, unnamed: &str| {
        device
            .identity()
            .map_or_else(|| unnamed.into(), |identity| identity.name)
    };
    for (n, card) in cuda_cards().iter().enumerate() {
        found.push(DeviceInfo {
            choice: DeviceChoice::Cuda(Some(n)),
            name: name(card, "CUDA card"),
            software: false,
        });
    }
    for (n, adapter) in adapters().into_iter().enumerate() {
        let choice = DeviceChoice::Wgpu(Some(n));
        found.push(DeviceInfo {
            choice,
            name: match adapter.open(choice) {
                Ok(device) => name(&device, "graphics adapter"),
                Err(error) => error.to_string(),
            },
            software: adapter.software,
        });
    }
    found
}

fn nth<T>(found: Vec<T>, index: Option<usize>, choice: DeviceChoice) -> Result<T, DeviceError> {
    let count = found.len();
    found
        .into_iter()
        .nth(index.unwrap_or(0))
        .ok_or(DeviceError::IndexTooLarge { choice, count })
}

#[cfg(feature = "cuda")]
fn cuda_cards() -> Vec<Device> {
    Device::enumerate(DeviceType::Cuda)
        .iter()
        .cloned()
        .collect()
}

#[cfg(not(feature = "cuda"))]
fn cuda_cards() -> Vec<Device> {
    Vec::new()
}

struct Adapter {
    device: Device,
    kind: Option<DeviceKind>,
    software: bool,
}

/// Adapters that are up: opening one twice would make a second logical device only to throw it
/// away.
static OPENED: Mutex<Vec<Device>> = Mutex::new(Vec::new());

impl Adapter {
    /// Brings the adapter up now, so that a refusal is an error here and not a panic at the first
    /// operation.
    fn open(&self, choice: DeviceChoice) -> Result<Device, DeviceError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if !opened.contains(&self.device) {
            if let Some(kind) = self.kind.clone() {
                match Device::wgpu_options().device_kind(kind).init() {
                    // Registration fails only when somebody else in this process brought it up
                    // already.
                    Ok(_) | Err(WgpuInitError::Registration { .. }) => {}
                    Err(error) => {
                        let reason = error.to_string();
                        return Err(DeviceError::CannotOpen { choice, reason });
                    }
                }
            }
            opened.push(self.device.clone());
        }
        Ok(self.device.clone())
    }
}

/// WGPU's adapters, hardware first; within that, in the driver's order.
fn adapters() -> Vec<Adapter> {
    let mut adapters: Vec<Adapter> = Device::enumerate(DeviceType::Wgpu)
        .iter()
        .map(|device| {
            let kind = kind_of(device);
            Adapter {
                device: device.clone(),
                software: kind == Some(DeviceKind::Cpu),
                kind,
            }
        })
        .collect();
    adapters.sort_by_key(|adapter| adapter.software);
    adapters
}

/// The selector that names `device`; `None` for an adapter of no declared kind.
fn kind_of(device: &Device) -> Option<DeviceKind> {
    // More adapters of one kind than any machine has.
    const MOST: usize = 64;
    let numbered = [
        DeviceKind::DiscreteGpu,
        DeviceKind::IntegratedGpu,
        DeviceKind::VirtualGpu,
    ];
    numbered
        .iter()
        .flat_map(|kind| (0..MOST).map(kind))
        .chain([DeviceKind::Cpu])
        .find(|kind| Device::wgpu(kind.clone()) == *device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_round_trip() {
        for text in ["auto", "cpu", "wgpu", "wgpu:1", "cuda", "cuda:0"] {
            let choice: DeviceChoice = text.parse().unwrap();
            assert_eq!(choice.to_string(), text);
        }
    }

    #[test]
    fn an_unknown_device_names_what_was_found_and_what_is_accepted() {
        for text in [
            "gpu", "cpu:0", "auto:1", "wgpu:", "wgpu:x", "cuda:-1", "", "CUDA",
        ] {
            let message = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(message.contains(&format!("\"{text}\"")), "{message}");
            assert!(message.contains("wgpu:N"), "{message}");
        }
    }

    #[test]
    fn the_cpu_always_opens_and_auto_always_finds_something() {
        assert_eq!(open(DeviceChoice::Cpu), Ok(Device::flex()));
        open(DeviceChoice::Auto).unwrap();
        assert_eq!(list()[0].choice, DeviceChoice::Cpu);
    }

    #[test]
    fn every_listed_device_opens_and_one_beyond_is_an_error() {
        let found = list();
        for info in &found {
            println!("{} {} software={}", info.choice, info.name, info.software);
            open(info.choice).unwrap();
        }
        let adapters = found
            .iter()
            .filter(|info| matches!(info.choice, DeviceChoice::Wgpu(_)))
            .count();
        let message = open(DeviceChoice::Wgpu(Some(adapters)))
            .unwrap_err()
            .to_string();
        assert!(message.contains(&format!("wgpu:{adapters}")), "{message}");
    }

    #[test]
    fn auto_never_picks_a_software_adapter() {
        if let Some(software) = adapters().iter().find(|adapter| adapter.software) {
            assert_ne!(open(DeviceChoice::Auto).unwrap(), software.device);
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_without_the_feature_says_how_to_get_it() {
        let message = open(DeviceChoice::Cuda(Some(0))).unwrap_err().to_string();
        assert!(message.contains("--features cuda"), "{message}");
    }
}
