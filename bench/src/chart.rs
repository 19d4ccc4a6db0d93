//! The chart: bars of deliveries per second, drawn as SVG by hand, since a rectangle and a text are all it takes.

use crate::Scenario;
use crate::report::{Figure, Results, short};
use std::fmt::Write;

const WIDTH: f64 = 800.0;
/// Where the bars begin, right of the servers' names.
const LEFT: f64 = 150.0;
/// What the longest bar leaves free for its figure.
const RIGHT: f64 = 70.0;
const BAR: f64 = 19.0;
const TITLE: f64 = 40.0;
const KEY: &str = "deliveries_per_second";

/// A panel for each scenario that counts deliveries, with a scale of its own: the scenarios differ too
/// much for one, and on a logarithmic one the lengths of bars say nothing.
pub fn svg(results: &Results, scenarios: &[Scenario]) -> String {
    let mut body = String::new();
    let mut y = 42.0;
    for scenario in scenarios
        .iter()
        .filter(|scenario| scenario.metrics.iter().any(|(key, _)| *key == KEY))
    {
        let figures: Vec<(&str, &str, Figure)> = (results.servers().into_iter())
            .map(|(id, name)| (id, name, results.figure(scenario.id, id, KEY)))
            .filter(|(_, _, figure)| !matches!(figure, Figure::Missing))
            .collect();
        if figures.is_empty() {
            continue;
        }
        y += TITLE;
        text(
            &mut body,
            12.0,
            y - 12.0,
            "class=\"title\"",
            &format!("{}: {}", scenario.id, scenario.what),
        );
        let longest = figures
            .iter()
            .map(|(_, _, figure)| figure.median())
            .fold(1.0, f64::max);
        for (id, name, figure) in &figures {
            let length = (WIDTH - LEFT - RIGHT) * figure.median() / longest;
            let colour = match *id {
                "chat-pair" => "#1f6feb",
                "bare" => "#57606a",
                _ => "#a8b3bf",
            };
            text(&mut body, LEFT - 8.0, y + 13.0, "text-anchor=\"end\"", name);
            let height = BAR - 4.0;
            let _ = writeln!(
                body,
                r#"<rect x="{LEFT}" y="{}" width="{length:.1}" height="{height}" fill="{colour}"/>"#,
                y + 2.0
            );
            let label = match figure {
                Figure::Failed(why) => why.clone(),
                figure => short(figure.median()),
            };
            text(&mut body, LEFT + length + 6.0, y + 13.0, "", &label);
            y += BAR;
        }
    }
    let height = y + 20.0;
    let machine = |key: &str| results.machine.get(key).map_or("", String::as_str);
    let heading = "Deliveries per second (a line arriving at one receiver is one delivery)";
    let place = format!(
        "{}, {} cores, Linux {}, {}",
        machine("cpu"),
        machine("cores"),
        machine("kernel"),
        machine("date")
    );
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13" fill="#1f2328">
<title>{heading}</title>
<style>.title {{ font-weight: 600 }} .small {{ font-size: 11px; fill: #57606a }}</style>
<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>
<text x="12" y="24" font-size="15" font-weight="600">{heading}</text>
<text x="12" y="41" class="small">{}</text>
{body}</svg>
"##,
        escaped(&format!(
            "Longer is better; each panel has its own scale. {place}"
        ))
    )
}

fn text(body: &mut String, x: f64, y: f64, attributes: &str, words: &str) {
    let _ = writeln!(
        body,
        r#"<text x="{x:.1}" y="{y}" {attributes}>{}</text>"#,
        escaped(words)
    );
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}
