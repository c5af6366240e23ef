//! Windows, order and trivial predictors on the shipped frames.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::path::Path;
use std::sync::Arc;
use tinygate::data::trivial::{self, MeanImage};
use tinygate::data::{Frames, WindowId, WindowShape, Windows};

fn windows() -> Windows {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/pong_frames.h5");
    let frames = Frames::load(&[path], 64).unwrap();
    Windows::new(
        Arc::new(frames),
        WindowShape {
            context_length: 4,
            frame_stride: 4,
        },
        8,
    )
    .unwrap()
}

#[track_caller]
fn near(name: &str, found: f64, want: f64) {
    assert!(
        (found / want - 1.0).abs() < 1e-9,
        "{name}: {found:e}, expected {want:e}"
    );
}

#[test]
fn the_losses_of_trivial_predictors_match_another_program() {
    let windows = windows();
    assert_eq!((windows.train_len(), windows.held_out_len()), (5856, 120));
    let mean = MeanImage::of(&windows);
    let ids: Vec<WindowId> = (0..windows.held_out_len())
        .filter_map(|k| windows.held_out(k))
        .collect();
    let found = trivial::measure(&windows, &mean, &ids).unwrap();
    let previous = found.previous_frame.unwrap();
    near("mean image", found.mean_image.all, 6.170_813_751_535_83e-4);
    near(
        "mean image, moving",
        found.mean_image.moving.unwrap(),
        0.020_091_982_986_163_17,
    );
    near("previous frame", previous.all, 6.921_820_145_102_004e-4);
    near(
        "previous frame, moving",
        previous.moving.unwrap(),
        0.015_671_806_139_406_018,
    );
    near("moving share", found.moving_share, 0.029_525_756_835_937_5);
}
