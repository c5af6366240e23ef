//! The hardware that a run trains on, as its log records it.

use tch::Device;

/// A device, numbered as libtorch does. A chunk gives the same bits only on the same kind of processor, so a CPU is
/// recorded with its widest vectors.
pub fn device(device: Device) -> String {
    match device {
        Device::Cpu => match processor() {
            Some((model, Some(vectors))) => format!("cpu ({model}, {vectors})"),
            Some((model, None)) => format!("cpu ({model})"),
            None => "cpu".to_owned(),
        },
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".to_owned(),
        Device::Vulkan => "vulkan".to_owned(),
    }
}

/// The name of a device's hardware; empty if it is unknown.
pub fn card(device: Device) -> String {
    let name = match device {
        Device::Cpu | Device::Mps => {
            processor().map_or_else(processor_of_macos, |(model, _)| Some(model))
        }
        Device::Cuda(index) => u32::try_from(index).ok().and_then(crate::train::cuda_card),
        Device::Vulkan => None,
    };
    name.unwrap_or_default()
}

/// The kernel's name of this processor, and its widest vectors.
fn processor() -> Option<(String, Option<&'static str>)> {
    processor_in(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn processor_in(info: &str) -> Option<(String, Option<&'static str>)> {
    let value = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim())
    };
    let model = value("model name")?;
    let flags = value("flags").unwrap_or_default();
    let has = |flag: &&&str| flags.split_ascii_whitespace().any(|found| found == **flag);
    let vectors = ["avx512f", "avx2"].iter().find(has);
    Some((model.to_owned(), vectors.copied()))
}

#[cfg(target_os = "macos")]
fn processor_of_macos() -> Option<String> {
    let asked = std::process::Command::new("/usr/sbin/sysctl")
        .args(["-n", "machdep.cpu.brand_string"])
        .output()
        .ok()?;
    let name = String::from_utf8(asked.stdout).ok()?.trim().to_owned();
    Some(name).filter(|name| asked.status.success() && !name.is_empty())
}

#[cfg(not(target_os = "macos"))]
fn processor_of_macos() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_a_model_and_widest_vectors() {
        let info = "processor\t: 0\nmodel name\t: A CPU @ 2.20GHz\nflags\t\t: sse avx2 avx512f\n";
        let found = processor_in(info);
        assert_eq!(found, Some(("A CPU @ 2.20GHz".to_owned(), Some("avx512f"))));
        let plain = processor_in("model name : B\nflags : sse\n");
        assert_eq!(plain, Some(("B".to_owned(), None)));
        assert_eq!(processor_in("processor : 0\nBogoMIPS : 50\n"), None);
    }
}
