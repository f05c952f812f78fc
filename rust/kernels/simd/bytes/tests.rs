//! Every step at every level against its definition.

use super::*;
use crate::codec::Dither;
use proptest::prelude::*;

/// All steps on one row of numbers, at whatever level.
struct Steps {
    ids: Words,
    values: [f32; LANES],
    lanes: Bytes,
    plane: u64,
    bit: u32,
    low_bits: u32,
}

#[derive(Debug, PartialEq)]
struct Found {
    bytes: [Bytes; 4],
    plane: u64,
    plane_of_sixteen: u16,
    spread: Bytes,
    unary: [u64; 3],
    places: Bytes,
    increasing: bool,
    extremes: Option<(u32, u32)>,
    restored: [u32; LANES],
    assembled: (Words, bool),
    halves: (u16, u32),
}

impl ByteWork for Steps {
    type Out = Found;

    #[inline(always)]
    fn run<L: ByteLanes>(self, lanes: L) -> Found {
        let Self { ids, values, bit, low_bits, .. } = self;
        let mut spread = self.lanes;
        lanes.spread(&mut spread, self.plane, bit);
        let unary = lanes.unary(&ids, low_bits, LANES as u32 + (ids[LANES - 1] >> low_bits));
        let places = lanes.places(unary);
        let mut restored = [0.0; LANES];
        lanes.restore(&self.lanes, -1.25, 3e-5, 255.0, &mut restored);
        let mut assembled = [0; LANES];
        let middle = lanes.bytes(&ids.map(|id| id & ((1 << low_bits) - 1)), 1);
        let right = lanes.assemble(&places, &middle, &lanes.bytes(&ids, 0), low_bits, &mut assembled);
        Found {
            bytes: [0, 1, 2, 3].map(|byte| lanes.bytes(&ids, byte)),
            plane: lanes.plane(&self.lanes, bit),
            plane_of_sixteen: lanes.plane_of_sixteen(&std::array::from_fn(|i| self.lanes[i]), bit),
            spread,
            unary,
            places,
            increasing: lanes.increasing(&ids),
            extremes: lanes.extremes(&values).map(|(top, low)| (top.to_bits(), low.to_bits())),
            restored: restored.map(f32::to_bits),
            assembled: (assembled, right),
            halves: (lanes.to_half(values[0]), lanes.to_single(0x3555).to_bits()),
        }
    }
}

fn defined(steps: &Steps) -> Found {
    let Steps { ids, values, lanes, .. } = steps;
    let mut unary = [0u64; 3];
    let places: Vec<usize> =
        ids.iter().enumerate().map(|(i, id)| (id >> steps.low_bits) as usize + i).collect();
    for place in &places {
        unary[place / 64] |= 1 << (place % 64);
    }
    let usable = values.iter().all(|x| x.is_finite() && *x <= 0.0);
    let top = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    Found {
        bytes: [0, 1, 2, 3].map(|byte| ids.map(|id| id.to_le_bytes()[byte])),
        plane: (0..LANES).fold(0, |all, i| all | u64::from(lanes[i] >> steps.bit & 1) << i),
        plane_of_sixteen: (0..16).fold(0, |all, i| all | u16::from(lanes[i] >> steps.bit & 1) << i),
        spread: std::array::from_fn(|i| lanes[i] | ((steps.plane >> i & 1) as u8) << steps.bit),
        unary,
        places: std::array::from_fn(|i| places[i] as u8),
        increasing: true,
        extremes: usable.then(|| (top.to_bits(), low.to_bits())),
        restored: lanes.map(|code| {
            let code = f32::from(code);
            (-1.25 - 3e-5 * (code * (code + 255.0))).to_bits()
        }),
        assembled: (*ids, true),
        halves: (half::f16::from_f32(values[0]).to_bits(), half::f16::from_bits(0x3555).to_f32().to_bits()),
    }
}

fn levels() -> Vec<ByteLevel> {
    Level::supported().into_iter().map(ByteLevel::at).collect()
}

struct Ordered(Words);
impl ByteWork for Ordered {
    type Out = bool;
    #[inline(always)]
    fn run<L: ByteLanes>(self, lanes: L) -> bool {
        lanes.increasing(&self.0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_are_their_definitions(seed: u64, low_bits in 8u32..16, bit in 0u32..8, plane: u64, odd in 0usize..300) {
        let dither = Dither::new(seed, [0; 3]);
        let vocab = 127u32 << low_bits;
        let mut all = std::collections::BTreeSet::new();
        let mut i = 0;
        while all.len() < LANES {
            all.insert((dither.uniform(i) * vocab as f32) as u32);
            i += 1;
        }
        let ids: Vec<u32> = all.into_iter().collect();
        let mut values: [f32; LANES] = std::array::from_fn(|i| -20.0 * dither.uniform(1000 + i as u64));
        if let Some(value) = values.get_mut(odd) {
            *value = [f32::NAN, 1.0, f32::NEG_INFINITY, 0.0][seed as usize % 4];
        }
        let lanes = std::array::from_fn(|i| (256.0 * dither.uniform(2000 + i as u64)) as u8);
        let steps = || Steps { ids: ids.clone().try_into().unwrap(), values, lanes, plane, bit, low_bits };
        let expected = defined(&steps());
        for level in levels() {
            let found = level.run(steps());
            // The largest of zeros may be either zero.
            prop_assert_eq!(&found, &expected, "{:?}", level);
        }
    }

    #[test]
    fn one_place_out_of_order_is_seen(at in 1usize..LANES, equal: bool) {
        let mut ids: Words = std::array::from_fn(|i| 3000 * i as u32);
        ids[at] = ids[at - 1] - u32::from(!equal && at > 1);
        for level in levels() {
            prop_assert!(!level.run(Ordered(ids)), "{:?}", level);
        }
    }
}
