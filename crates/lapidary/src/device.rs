//! What a device calls itself.

use burn::tensor::Device;

use crate::progress::count;

/// The name of a device, for people.
#[must_use]
pub fn device_name(device: &Device) -> String {
    if *device == Device::flex() {
        let threads = count(rayon::current_num_threads() as u64, "thread");
        return format!("CPU, {threads}");
    }
    let identity = device.identity();
    identity.map_or_else(|| format!("{device:?}"), |identity| identity.name)
}
