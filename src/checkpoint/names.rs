//! Names of checkpoints (`<stage>_step_<n>`), and names of tensors without the prefixes of
//! modules that wrap a model in training.

use std::collections::{BTreeMap, VecDeque};

/// A checkpoint's name, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepName<'n> {
    pub stage: &'n str,
    /// The number of updates done in tinygate's, the index of the last update in TinyWorlds'.
    pub step: u64,
}

/// Parses `<stage>_step_<n>` with an optional suffix: `_2` for the second checkpoint
/// at a step, a date, a file's extension.
pub fn step_name(name: &str) -> Option<StepName<'_>> {
    let (stage, rest) = name.rsplit_once("_step_")?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    let (digits, behind) = rest.split_at(end.unwrap_or(rest.len()));
    let ends = behind.is_empty() || behind.starts_with(['_', '.', '-']);
    let step = digits.parse().ok().filter(|_| ends)?;
    Some(StepName { stage, step })
}

/// A wrapper's prefix that only some names of a model have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{with} of {of} names begin with `{prefix}`, expected all or none")]
pub struct MixedPrefix {
    pub prefix: String,
    pub with: usize,
    pub of: usize,
}

/// Modules that may wrap any module: `torch.compile`, FSDP, activation checkpointing,
/// Lightning.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
];
/// Attributes that contain the whole model: DDP's, and that of a Lightning module.
const OUTERMOST: [&str; 2] = ["module", "model"];

/// The names without the prefixes of wrappers.
///
/// # Errors
/// If only some of the names below a module have a wrapper's prefix.
pub fn unwrapped(names: &[&str]) -> Result<Vec<String>, MixedPrefix> {
    let mut left: Vec<VecDeque<&str>> =
        names.iter().map(|name| name.split('.').collect()).collect();
    let mut plain: Vec<Vec<&str>> = vec![Vec::new(); names.len()];
    // Names of one module, by their indices. Each part is read at most twice, because the
    // names in a foreign file may be long and many.
    let mut modules: Vec<Vec<usize>> = vec![(0..names.len()).collect()];
    while let Some(module) = modules.pop() {
        let next = |index: usize| -> Option<&str> {
            let parts = left.get(index)?;
            // The last part is the tensor itself.
            parts.front().copied().filter(|_| parts.len() > 1)
        };
        let parent = module.first().and_then(|first| plain.get(*first));
        let outermost = parent.is_none_or(Vec::is_empty);
        let is_wrapper =
            |part: &&str| WRAPPERS.contains(part) || (outermost && OUTERMOST.contains(part));
        let wrapper = module
            .iter()
            .find_map(|index| next(*index).filter(is_wrapper));
        if let Some(wrapper) = wrapper {
            let has = |index: &&usize| next(**index) == Some(wrapper);
            let (with, of) = (module.iter().filter(has).count(), module.len());
            if with != of {
                let parts = parent.into_iter().flatten().chain([&wrapper]);
                let prefix = parts.map(|part| format!("{part}.")).collect();
                return Err(MixedPrefix { prefix, with, of });
            }
            for index in &module {
                left.get_mut(*index).and_then(VecDeque::pop_front);
            }
            modules.push(module);
            continue;
        }
        let mut below: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for index in module {
            let Some((left, plain)) = left.get_mut(index).zip(plain.get_mut(index)) else {
                continue;
            };
            let last = left.len() <= 1;
            let Some(part) = left.pop_front() else {
                continue;
            };
            plain.push(part);
            if !last {
                below.entry(part).or_default().push(index);
            }
        }
        modules.extend(below.into_values().rev());
    }
    Ok(plain.iter().map(|name| name.join(".")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_step(name: &str, want: Option<(&str, u64)>) {
        let found = step_name(name).map(|found| (found.stage, found.step));
        assert_eq!(found, want, "{name}");
    }

    #[test]
    fn the_step_is_the_number_after_step() {
        check_step("video_tokenizer_step_149", Some(("video_tokenizer", 149)));
        check_step("dynamics_step_80_2", Some(("dynamics", 80)));
        check_step(
            "sonic_dynamics_step_2_2025_09_17.pth",
            Some(("sonic_dynamics", 2)),
        );
        check_step("a_step_7.pt", Some(("a", 7)));
        check_step("a_step_1_step_2", Some(("a_step_1", 2)));
        check_step("a_step_", None);
        check_step("a_step_7b", None);
        check_step("a_step_-7", None);
        check_step("a_80_2", None);
        check_step("a_step_99999999999999999999", None);
    }

    #[track_caller]
    fn check(name: &str, given: &[&str], want: Result<&[&str], &str>) {
        let found = unwrapped(given).map_err(|error| error.to_string());
        let want = want.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(found, want.map_err(str::to_owned), "{name}");
    }

    #[test]
    fn wrappers_of_all_names_are_removed() {
        let plain: &[&str] = &["a.weight", "b.c.bias"];
        check("none", plain, Ok(plain));
        check("DDP", &["module.a.weight", "module.b.c.bias"], Ok(plain));
        check(
            "compiled DDP",
            &["_orig_mod.module.a.weight", "_orig_mod.module.b.c.bias"],
            Ok(plain),
        );
        check(
            "DDP of a compiled model",
            &["module._orig_mod.a.weight", "module._orig_mod.b.c.bias"],
            Ok(plain),
        );
        check(
            "one compiled block",
            &["a.weight", "b._orig_mod.c.bias"],
            Ok(plain),
        );
        check(
            "a tensor of a wrapper's name",
            &["a.module", "module"],
            Ok(&["a.module", "module"]),
        );
        check("no names", &[], Ok(&[]));
    }

    #[test]
    fn long_names_and_many_wrappers_are_read_in_one_pass() {
        let long = format!("{}a.weight", "_orig_mod.".repeat(200_000));
        check("a long name", &[&long], Ok(&["a.weight"]));
        let deep = format!("{}weight", "a.".repeat(200_000));
        check("a deep name", &[&deep], Ok(&[deep.as_str()]));
        let names = |part: &str| -> Vec<String> {
            let name = |index| format!("blocks.{index}.{part}weight");
            (0..50_000).map(name).collect()
        };
        let (wrapped, plain) = (names("_fsdp_wrapped_module."), names(""));
        let wrapped: Vec<&str> = wrapped.iter().map(String::as_str).collect();
        assert_eq!(unwrapped(&wrapped).as_ref(), Ok(&plain), "many modules");
    }

    #[test]
    fn wrappers_of_some_names_are_refused() {
        check(
            "a clash",
            &["a.weight", "_orig_mod.a.weight"],
            Err("1 of 2 names begin with `_orig_mod.`, expected all or none"),
        );
        check(
            "a tensor of the wrapper's name",
            &["module.a", "module"],
            Err("1 of 2 names begin with `module.`, expected all or none"),
        );
        check(
            "half of DDP",
            &["module.a.weight", "module.b.bias", "c.bias"],
            Err("2 of 3 names begin with `module.`, expected all or none"),
        );
        check(
            "half of a block",
            &["a._orig_mod.b.weight", "a.c.bias", "d.bias"],
            Err("1 of 2 names begin with `a._orig_mod.`, expected all or none"),
        );
    }
}
