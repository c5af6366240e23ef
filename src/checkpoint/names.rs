//! Names: of checkpoints (`<stage>_step_<n>`), and of tensors behind the wrappers that
//! training puts around a model.

/// What a checkpoint's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepName<'n> {
    pub stage: &'n str,
    /// Updates done in ours, the index of the last update in TinyWorlds' own.
    pub step: u64,
}

/// Reads `<stage>_step_<n>` with anything behind it: `_2` for the second checkpoint
/// at a step, a date, a file's extension.
pub fn step_name(name: &str) -> Option<StepName<'_>> {
    let (stage, rest) = name.rsplit_once("_step_")?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    let (digits, behind) = rest.split_at(end.unwrap_or(rest.len()));
    let ends = behind.is_empty() || behind.starts_with(['_', '.', '-']);
    let step = digits.parse().ok().filter(|_| ends)?;
    Some(StepName { stage, step })
}

/// A wrapper that some names of a model have and others lack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{prefix}` stands before {with} of {of} names; expected all or none")]
pub struct MixedPrefix {
    pub prefix: String,
    pub with: usize,
    pub of: usize,
}

/// Modules that wrap another one wherever it stands: `torch.compile`, FSDP, activation
/// checkpointing, Lightning.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
];
/// Attributes that hold the whole model: DDP's, and that of a Lightning module.
const OUTERMOST: [&str; 2] = ["module", "model"];

/// The names without wrappers.
///
/// # Errors
/// If a wrapper stands before some of the names below a module and not before others.
pub fn unwrapped(names: &[&str]) -> Result<Vec<String>, MixedPrefix> {
    let mut names: Vec<Vec<&str>> = names.iter().map(|name| name.split('.').collect()).collect();
    while let Some((at, wrapper)) = first_wrapper(&names) {
        let parent: Vec<&str> = at.to_vec();
        let below = |name: &&Vec<&str>| name.starts_with(&parent);
        let of = names.iter().filter(below).count();
        let wrapped = |name: &&Vec<&str>| name.get(parent.len()) == Some(&wrapper);
        let with = names.iter().filter(below).filter(wrapped).count();
        if with != of {
            let parts = parent.iter().chain([&wrapper]);
            let prefix = parts.map(|part| format!("{part}.")).collect();
            return Err(MixedPrefix { prefix, with, of });
        }
        for name in names.iter_mut().filter(|name| name.starts_with(&parent)) {
            name.remove(parent.len());
        }
    }
    Ok(names.iter().map(|name| name.join(".")).collect())
}

/// The first wrapper in any name, and the modules before it.
fn first_wrapper<'n>(names: &[Vec<&'n str>]) -> Option<(Vec<&'n str>, &'n str)> {
    names.iter().find_map(|name| {
        // The last part is the tensor itself.
        let modules = name.get(..name.len().checked_sub(1)?)?;
        let at = modules.iter().enumerate().position(|(index, part)| {
            WRAPPERS.contains(part) || (index == 0 && OUTERMOST.contains(part))
        })?;
        Some((name.get(..at)?.to_vec(), *name.get(at)?))
    })
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
    fn the_step_is_the_number_behind_step() {
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
    fn wrappers_are_taken_off_where_all_names_have_them() {
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
    fn wrappers_before_some_names_are_refused() {
        check(
            "a clash",
            &["a.weight", "_orig_mod.a.weight"],
            Err("`_orig_mod.` stands before 1 of 2 names; expected all or none"),
        );
        check(
            "half of DDP",
            &["module.a.weight", "module.b.bias", "c.bias"],
            Err("`module.` stands before 2 of 3 names; expected all or none"),
        );
        check(
            "half of a block",
            &["a._orig_mod.b.weight", "a.c.bias", "d.bias"],
            Err("`a._orig_mod.` stands before 1 of 2 names; expected all or none"),
        );
    }
}
