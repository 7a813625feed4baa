//! Random numbers that come again with the same seed.

/// A source of random numbers.
pub struct Draw(fastrand::Rng);

impl Draw {
    /// The draws of a scenario.
    pub fn all_of(scenario: &str, draws: u64) -> impl Iterator<Item = Self> {
        let seed = scenario.bytes().fold(1_u64, |seed, byte| {
            seed.wrapping_mul(31).wrapping_add(byte.into())
        });
        // The first numbers of generators with similar seeds are similar.
        let mut seeds = fastrand::Rng::with_seed(seed);
        (0..draws).map(move |_| Self(seeds.fork()))
    }

    /// Between `low` and `high`.
    pub fn real(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.f64()
    }

    /// From `low` on, below `high`.
    pub fn number(&mut self, low: u64, high: u64) -> u64 {
        self.0.u64(low..high)
    }

    pub fn choice(&mut self, values: &[u64]) -> u64 {
        values[self.0.usize(..values.len())]
    }

    pub fn is(&mut self, probability: f64) -> bool {
        self.0.f64() < probability
    }

    /// Normal distribution, by Box and Muller.
    pub fn normal(&mut self, deviation: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.0.f64()).ln()).sqrt();
        deviation * radius * (std::f64::consts::TAU * self.0.f64()).cos()
    }

    /// Number of independent events of which `mean` are expected.
    pub fn events(&mut self, mean: f64) -> u64 {
        if mean > 50.0 {
            return (mean + self.normal(mean.sqrt())).round().max(0.0) as u64;
        }
        let (mut events, mut left) = (0, self.0.f64());
        let mut term = (-mean.max(0.0)).exp();
        while left > term && events < 200 {
            left -= term;
            events += 1;
            term *= mean / events as f64;
        }
        events
    }

    /// Gamma distribution with mean 1 and the given shape.
    pub fn waver(&mut self, shape: u32) -> f64 {
        let sum: f64 = (0..shape).map(|_| -(1.0 - self.0.f64()).ln()).sum();
        sum / f64::from(shape)
    }
}
