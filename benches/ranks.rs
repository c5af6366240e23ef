//! The cost of using two ranks: summing an update's gradients over Gloo, compared with the update itself.
//!
//! `cargo bench --bench ranks`. Ranks are threads over the loopback's sockets.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints figures or panics"
)]

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use tinygate::presets::ModelKind;
use tinygate::train::models::ModelConfig;
use tinygate::train::{InitKey, MicroBatch, Model, Pipeline, StageTrainer, Wanted, use_threads};
use tinygate_c10d::{Group, Listen, Store};

const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 30;

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Median seconds for summing two flat tensors like an update's gradients.
fn sum_of(numbers: i64) -> f64 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let rank = |rank: u32, store: Store| {
        let listen = Listen::Address("127.0.0.1".to_owned());
        let group = Group::gloo(&store, rank, 2, &listen, PATIENCE).expect("two ranks");
        let flat = |share: i64| Tensor::ones([numbers * share / 10], (Kind::Float, Device::Cpu));
        let (mut decayed, mut plain) = (flat(9), flat(1));
        let round = |_| {
            let from = Instant::now();
            group
                .sum(&mut [&mut decayed, &mut plain])
                .expect("both ranks are there");
            from.elapsed().as_secs_f64()
        };
        median((0..ROUNDS).map(round).collect())
    };
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| rank(0, Store::serve(listener, PATIENCE).expect("a store")));
        let one = scope.spawn(|| {
            rank(
                1,
                Store::connect("127.0.0.1", port, PATIENCE, None).expect("it serves"),
            )
        });
        let seconds = zero.join().expect("rank 0");
        one.join().expect("rank 1");
        seconds
    })
}

/// Median seconds for an update of the default video tokenizer on one thread, and its number of parameters.
fn update() -> (f64, i64) {
    use_threads(1);
    let config = ModelConfig {
        frame_size: 64,
        patch_size: 4,
        context_length: 4,
        embed_dim: 32,
        num_heads: 8,
        hidden_dim: 128,
        num_blocks: 4,
        latent_dim: 5,
        num_bins: 4,
        n_actions: 4,
    };
    let key = InitKey {
        run_seed: 1,
        stage: "video_tokenizer".to_owned(),
        restart: 0,
    };
    let model = Model::new(ModelKind::VideoTokenizer, &config, &key, Device::Cpu)
        .expect("the default model");
    let pipeline = Pipeline::new(model, None).expect("no upstream models are needed");
    let mut trainer = StageTrainer::new(pipeline).expect("memory for the moments");
    let frames = Tensor::randint(256, [8, 4, 64, 64, 3], (Kind::Uint8, Device::Cpu));
    let batch = [MicroBatch { frames, mask: None }];
    let round = |_| {
        let from = Instant::now();
        trainer
            .update(&batch, 1e-3, Wanted::default())
            .expect("memory for eight windows");
        from.elapsed().as_secs_f64()
    };
    let seconds = median((0..7).map(round).collect());
    let count = trainer.model().parameters().count();
    (seconds, count as i64)
}

fn main() {
    let (seconds, numbers) = update();
    println!(
        "an update of the default video tokenizer, batch 8, one thread: {:.0} ms ({numbers} numbers)",
        seconds * 1e3
    );
    for count in [numbers, 1_000_000, 10_000_000] {
        let sum = sum_of(count);
        println!(
            "sum of {count:>8} gradients over 2 ranks: {:>7.2} ms, {:.1} % of that update",
            sum * 1e3,
            sum / seconds * 100.0
        );
    }
}
