//! Transactions of a month, drawn with biases.

use crate::key::{DetRng, InstanceKey};
use crate::names::NameKind;

pub(super) const REPS: usize = 20;
pub(super) const CATEGORIES: [&str; 6] =
    ["Hardware", "Software", "Services", "Consumables", "Furniture", "Networking"];
pub(super) const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const PRODUCTS: usize = 20;
const CITIES: usize = 10;

/// One transaction; money in cents.
pub(super) struct Row {
    pub(super) day: u32,
    pub(super) rep: usize,
    pub(super) customer: usize,
    pub(super) product: usize,
    pub(super) city: usize,
    pub(super) quantity: u64,
    price: u64,
    pub(super) amount: u64,
}

pub(super) struct Product {
    pub(super) category: usize,
    price: u64,
}

/// A month of a region.
pub(super) struct Table {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) reps: Vec<String>,
    pub(super) rep_targets: Vec<u64>,
    pub(super) products: Vec<Product>,
    pub(super) product_names: Vec<String>,
    pub(super) cities: Vec<String>,
    pub(super) customers: Vec<String>,
    pub(super) is_new: Vec<bool>,
    pub(super) rows: Vec<Row>,
    pub(super) region: String,
    pub(super) region_target: u64,
    pub(super) previous: u64,
    /// Draws the questions that are asked.
    pub(super) asked: DetRng,
}

/// Days since 1970-01-01.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_era = y.rem_euclid(400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    y.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// 0 for Monday.
pub(super) fn weekday(year: i64, month: i64, day: i64) -> usize {
    (days(year, month, day) + 3).rem_euclid(7) as usize
}

/// The week of ISO 8601.
pub(super) fn iso_week(year: i64, month: i64, day: i64) -> u64 {
    let date = days(year, month, day);
    // A week belongs to the year of its Thursday.
    let thursday = date - weekday(year, month, day) as i64 + 3;
    let first =
        [year + 1, year, year - 1].map(|y| days(y, 1, 1)).into_iter().find(|&first| first <= thursday);
    ((thursday - first.unwrap_or(thursday)) / 7 + 1) as u64
}

fn days_in(year: i64, month: i64) -> u64 {
    let (y, m) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    (days(y, m, 1) - days(year, month, 1)) as u64
}

fn permille(amount: u64, factor: u64) -> u64 {
    (amount * factor + 500) / 1000
}

impl Table {
    /// `count` transactions.
    pub(super) fn draw(key: &InstanceKey, count: usize) -> Self {
        let mut rng = key.rng("target");
        let (given, family) = (NameKind::Given.draw(REPS, &mut rng), NameKind::Surname.draw(REPS, &mut rng));
        let places = NameKind::Place.draw(CITIES + 1, &mut rng);
        let buyers = (2 * count / 3).clamp(8, NameKind::Organization.len());
        let per_rep = (count as u64).max(60);
        let rep_targets = (0..REPS).map(|_| rng.range(750, 1300) * 10_000 * per_rep / 60).collect();
        let level = *rng.pick(&[8, 20, 35]);
        let product = |rng: &mut DetRng| Product {
            category: rng.index(CATEGORIES.len()),
            price: rng.range(500, 12_000) * 100,
        };
        let mut table = Self {
            year: rng.range(2021, 2025) as i64,
            month: rng.range(1, 12) as i64,
            reps: given.iter().zip(&family).map(|(a, b)| format!("{a} {b}")).collect(),
            rep_targets,
            products: (0..PRODUCTS).map(|_| product(&mut rng)).collect(),
            product_names: NameKind::Product.draw(PRODUCTS, &mut rng),
            cities: places[1..].to_vec(),
            customers: NameKind::Organization.draw(buyers, &mut rng),
            is_new: (0..buyers).map(|_| rng.coin(level, 100)).collect(),
            rows: Vec::with_capacity(count),
            region: places[0].clone(),
            region_target: 0,
            previous: 0,
            asked: rng.clone(),
        };
        // Without a new customer there would be nothing to ask.
        table.is_new[0] = true;
        table.is_new[1] = false;
        let [top_rep, bottom_rep] = [rng.index(REPS / 2), REPS / 2 + rng.index(REPS / 2)];
        let top_product = rng.index(PRODUCTS);
        let reps: Vec<u64> = (0..REPS)
            .map(|i| {
                if i == top_rep {
                    35
                } else if i == bottom_rep {
                    2
                } else {
                    10
                }
            })
            .collect();
        let products: Vec<u64> = (0..PRODUCTS).map(|i| if i == top_product { 35 } else { 10 }).collect();
        let factor = |rng: &mut DetRng, low, high| rng.range(low, high);
        let rep_factor: Vec<u64> = (0..REPS)
            .map(|i| match i {
                i if i == top_rep => factor(&mut rng, 1100, 1500),
                i if i == bottom_rep => factor(&mut rng, 600, 850),
                _ => 1000,
            })
            .collect();
        let category_factor: Vec<u64> = CATEGORIES.iter().map(|_| factor(&mut rng, 800, 1100)).collect();
        let goal = *rng.pick(&[(1150, 1700), (1000, 1000), (600, 850)]);
        let growth = *rng.pick(&[(1080, 1220), (1000, 1000), (820, 960)]);
        let (goal, growth) = (factor(&mut rng, goal.0, goal.1), factor(&mut rng, growth.0, growth.1));
        let month_days = days_in(table.year, table.month);
        table.asked = rng;

        let mut rng = key.rng("material");
        for _ in 0..count {
            let (rep, product) = (rng.pick_weighted(&reps), rng.pick_weighted(&products));
            let Product { category, price } = table.products[product];
            let quantity = match CATEGORIES[category] {
                "Services" => 1,
                _ if price > 800_000 => 1,
                "Hardware" => rng.range(1, 10),
                "Consumables" => rng.range(10, 50),
                _ => rng.range(1, 5),
            };
            let customer = rng.index(buyers);
            let mut amount = permille(price * quantity, rep_factor[rep]);
            amount = permille(permille(amount, category_factor[category]), factor(&mut rng, 900, 1100));
            if table.is_new[customer] {
                amount = permille(amount, 900);
            }
            table.rows.push(Row {
                day: rng.range(1, month_days) as u32,
                rep,
                customer,
                product,
                city: rng.index(CITIES),
                quantity,
                price,
                amount: amount.max(5000),
            });
        }
        let total = table.total();
        // Whole hundreds of dollars.
        table.region_target = (total * 1000 / goal / 10_000).max(1) * 10_000;
        table.previous = (total * 1000 / growth / 10_000).max(1) * 10_000;
        table
    }

    pub(super) fn total(&self) -> u64 {
        self.rows.iter().map(|r| r.amount).sum()
    }

    pub(super) fn week(&self, row: &Row) -> u64 {
        iso_week(self.year, self.month, row.day.into())
    }

    pub(super) fn weekday(&self, row: &Row) -> usize {
        weekday(self.year, self.month, row.day.into())
    }

    /// CSV with a header.
    pub(super) fn render(&self) -> String {
        let mut text = format!(
            "region: {}; regional target: {}; revenue of the previous month: {}\n\n\
             order_id,date,region,city,salesperson_id,salesperson,salesperson_target,customer_id,customer,new_customer,\
             product_id,product,category,quantity,unit_price,amount\n",
            self.region,
            dollars(self.region_target),
            dollars(self.previous),
        );
        for (i, row) in self.rows.iter().enumerate() {
            let Row { day, rep, customer, product, city, quantity, .. } = row;
            let new = if self.is_new[*customer] { "yes" } else { "no" };
            text.push_str(&format!(
                "S{:04},{}-{:02}-{day:02},{},{},R{:02},{},{},C{:03},{},{new},P{:02},{},{},{quantity},{},{}\n",
                i + 1,
                self.year,
                self.month,
                self.region,
                self.cities[*city],
                rep + 1,
                self.reps[*rep],
                plain(self.rep_targets[*rep]),
                customer + 1,
                self.customers[*customer],
                product + 1,
                self.product_names[*product],
                CATEGORIES[self.products[*product].category],
                plain(row.price),
                plain(row.amount),
            ));
        }
        text
    }
}

/// `1234.56`.
fn plain(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// `$1,234.56`.
pub(super) fn dollars(cents: u64) -> String {
    let whole = (cents / 100).to_string();
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("${grouped}.{:02}", cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 3, 1), 11_017);
        assert_eq!((weekday(1970, 1, 1), weekday(2024, 2, 29), weekday(2026, 11, 25)), (3, 3, 2));
        for (date, week) in [
            ((2021, 1, 3), 53),
            ((2021, 1, 4), 1),
            ((2024, 12, 30), 1),
            ((2023, 1, 1), 52),
            ((2020, 12, 31), 53),
            ((2025, 6, 15), 24),
        ] {
            assert_eq!(iso_week(date.0, date.1, date.2), week, "{date:?}");
        }
        assert_eq!([days_in(2024, 2), days_in(2023, 2), days_in(2024, 12)], [29, 28, 31]);
    }

    #[test]
    fn money() {
        assert_eq!(dollars(123_456_789), "$1,234,567.89");
        assert_eq!((dollars(5), dollars(99_999)), ("$0.05".into(), "$999.99".into()));
    }
}
