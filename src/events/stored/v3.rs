//! Version 3 of the kinds that have one. Frozen like [`super::v1`].

use alloc::string::String;
use alloc::vec::Vec;

use super::freeze::{Unfit, frozen};
use super::v1::*;
use super::v2::*;
use crate::*;

frozen! {
    RunCreatedV3 of RunCreated {
        run: String,
        tinygate_version: String,
        libtorch_version: String,
        rules: u32,
        seed: u64,
        world_size: u32,
        config: String,
        policy: String,
        dataset: DatasetV2,
        trivial_predictors: Vec<MetricV1>,
        parent: Option<ParentV3>,
        init_from: Vec<InitFromV2>,
        held_out_batches: u16,
    }
    ParentV3 of Parent {
        run: String,
        path: String,
        patches: Vec<SettingPatchV2>,
    }
}

impl TryFrom<ParentV1> for ParentV3 {
    type Error = Unfit;

    fn try_from(old: ParentV1) -> Result<ParentV3, Unfit> {
        let patches = old.patches.into_iter().map(SettingPatchV2::try_from);
        Ok(ParentV3 {
            run: old.run,
            path: old.path,
            patches: patches.collect::<Result<_, Unfit>>()?,
        })
    }
}

impl TryFrom<RunCreatedV1> for RunCreatedV3 {
    type Error = Unfit;

    fn try_from(old: RunCreatedV1) -> Result<RunCreatedV3, Unfit> {
        RunCreatedV2::from(old).try_into()
    }
}

impl TryFrom<RunCreatedV2> for RunCreatedV3 {
    type Error = Unfit;

    fn try_from(old: RunCreatedV2) -> Result<RunCreatedV3, Unfit> {
        Ok(RunCreatedV3 {
            run: old.run,
            tinygate_version: old.tinygate_version,
            libtorch_version: old.libtorch_version,
            rules: old.rules,
            seed: old.seed,
            world_size: old.world_size,
            config: old.config,
            policy: old.policy,
            dataset: old.dataset,
            trivial_predictors: old.trivial_predictors,
            parent: old.parent.map(ParentV3::try_from).transpose()?,
            init_from: old.init_from,
            held_out_batches: old.held_out_batches,
        })
    }
}
