//! The results as a bar chart in SVG.

use std::fmt::Write as _;

use super::{
    results::{Figures, Results},
    statistics::Spread,
};

const WIDTH: f64 = 760.0;
/// Room for names on the left and figures on the right.
const LEFT: f64 = 110.0;
const RIGHT: f64 = 150.0;
const BAR: f64 = 18.0;
const ROW: f64 = 26.0;
const TITLE: f64 = 40.0;

struct Panel {
    title: &'static str,
    figure: fn(&Figures) -> Option<Spread>,
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "Connections per second left, % of nothing attached (more is better)",
        figure: |figures| figures.left_percent,
    },
    Panel {
        title: "Kernel time per event, ns (less is better)",
        figure: |figures| figures.nanoseconds_per_event,
    },
    Panel {
        title: "Kernel time per connection, ns (less is better)",
        figure: |figures| figures.nanoseconds_per_connection,
    },
];

/// The picture.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for Panel { title, figure } in PANELS {
        let rows: Vec<(&str, Spread)> = results
            .subjects
            .iter()
            .filter_map(|figures| Some((figures.name.as_str(), figure(figures)?)))
            .collect();
        if !rows.is_empty() {
            y = panel(&mut body, title, &rows, y);
        }
    }
    let height = y + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Writes one panel from `y` downwards and returns where it ends.
fn panel(body: &mut String, title: &str, rows: &[(&str, Spread)], y: f64) -> f64 {
    let most = rows
        .iter()
        .map(|(_, spread)| spread.high)
        .fold(0.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most.max(f64::MIN_POSITIVE);
    let _ = writeln!(
        body,
        "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        y + 25.0
    );
    let mut top = y + TITLE;
    for (name, spread) in rows {
        let middle = top + BAR / 2.0;
        let text = middle + 5.0;
        let width = spread.median * scale;
        let fill = if *name == "observer" {
            "#1b6ca8"
        } else {
            "#b0b8c0"
        };
        let (low, high) = (LEFT + spread.low * scale, LEFT + spread.high * scale);
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>\
             <path d=\"M{low:.1} {middle}H{high:.1}\" stroke=\"black\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{spread}</text>",
            LEFT - 8.0,
            high.max(LEFT + width) + 8.0,
        );
        top += ROW;
    }
    top + 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let spread = |median: f64| Spread {
            median,
            low: median,
            high: median,
        };
        let figures = |name: &str, left: Option<f64>| Figures {
            name: name.to_owned(),
            left_percent: left.map(spread),
            ..Figures::default()
        };
        let results = Results {
            subjects: vec![
                figures("nothing", None),
                figures("observer", Some(100.0)),
                figures("tcplife", Some(50.0)),
            ],
            ..Results::default()
        };
        let svg = svg(&results);
        assert!(
            svg.contains("width=\"500.0\"") && svg.contains("width=\"250.0\""),
            "{svg}"
        );
        assert!(!svg.contains("nothing<"), "what has no figure has no bar");
        assert!(
            !svg.contains("Kernel time"),
            "nor has an empty panel a title"
        );
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
