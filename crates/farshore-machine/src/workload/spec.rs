//! What an operator says of a machine, checked.

use std::path::PathBuf;

use farshore_core::ids::Name;
use farshore_core::workload::StepError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// More disks than any hypervisor gives one guest.
const DISKS_MAX: usize = 64;
/// Smallest disk: one sector.
const SIZE_MIN: u64 = 512;
/// Largest disk, 64 TiB: what the map's memory is planned for (2 GiB of bits).
const SIZE_MAX: u64 = 64 << 40;

/// `{"disks":[{"name":"root","size_bytes":10737418240,"path":"/srv/web-1.raw"}]}`: with a path the file is used as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// At least one.
    pub disks: Vec<DiskSpec>,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Its name within the machine, and of its NBD export.
    pub name: Name,
    /// Its size; with a path it may be left out (0), and if given must be the file's.
    #[serde(default)]
    pub size_bytes: u64,
    /// An existing raw file or block device to use in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

impl MachineSpec {
    /// Parses and checks.
    pub fn parse(value: &Value) -> Result<Self, StepError> {
        let fatal = |what: String| StepError::Fatal { what };
        let spec: Self = serde_json::from_value(value.clone())
            .map_err(|error| fatal(format!("the machine's description is not valid: {error}")))?;
        if spec.disks.is_empty() || spec.disks.len() > DISKS_MAX {
            return Err(fatal(format!("a machine has 1 to {DISKS_MAX} disks, not {}", spec.disks.len())));
        }
        for (index, disk) in spec.disks.iter().enumerate() {
            if spec.disks[..index].iter().any(|other| other.name == disk.name) {
                return Err(fatal(format!("two disks are named {}", disk.name)));
            }
            let sized = disk.path.is_none() || disk.size_bytes != 0;
            if sized && !(SIZE_MIN..=SIZE_MAX).contains(&disk.size_bytes) {
                return Err(fatal(format!(
                    "disk {} has {} bytes: give it between {SIZE_MIN} bytes and 64 TiB",
                    disk.name, disk.size_bytes
                )));
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_description_is_checked() {
        assert!(MachineSpec::parse(&json!({"disks":[{"name":"root","size_bytes":4096}]})).is_ok());
        for (bad, why) in [
            (json!({"disks":[]}), "1 to 64 disks"),
            (json!({"disks":[{"name":"root","size_bytes":1}]}), "between 512 bytes and 64 TiB"),
            (
                json!({"disks":[{"name":"a","size_bytes":4096},{"name":"a","size_bytes":4096}]}),
                "two disks are named a",
            ),
            (json!({"disks":[{"name":"A","size_bytes":4096}]}), "lower-case"),
            (json!({"disks":[{"name":"a","size":4096}]}), "unknown field"),
        ] {
            let error = MachineSpec::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
