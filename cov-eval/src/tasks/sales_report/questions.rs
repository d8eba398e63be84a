//! What can be asked of a table: the catalogue of questions with their exact answers.
//!
//! All comparisons are of integers. A question is asked only where its decision is not a near thing: a margin of at
//! least 2 %, or 1 for counts.

use super::SalesTargets;
use super::answer::{Dim, Part};
use super::catalogue::{Candidate, Catalogue, Ranking, Sums, share};
use super::table::{CATEGORIES, REPS, Row, Table, WEEKDAYS};

impl Catalogue<'_> {
    fn overview(&mut self) {
        let (table, total) = (self.table, self.total);
        let n = table.rows.len() as u64;
        let all = self.group(|_| 0, 1, |_| true)[0];
        self.add(
            "OV1",
            (3, 0),
            1000,
            "What was the mean amount of a transaction?",
            "A transaction brought in {0} on average",
            vec![Part::Money(total / n.max(1))],
        );
        self.add(
            "OV2",
            (3, 0),
            1000,
            "Which percentage of the regional target did total revenue reach?",
            "Total revenue reached {0} of the regional target",
            vec![share(total, table.region_target)],
        );
        let change = share(total.abs_diff(table.previous), table.previous);
        let Part::Percent(points) = change else { return };
        // Flat within half a point.
        let (class, clear) = match points {
            0..=300 => (1, 1000),
            700.. => (if total > table.previous { 0 } else { 2 }, 1000),
            _ => (1, 0),
        };
        self.add("OV3", (3, 1), clear,
            "By how many percent did total revenue change against the previous month? Say rose, fell, or (within half a \
             point) flat.",
            "Against the previous month total revenue was to be called {1}, at {0} of change", vec![change, Part::Label(0, class)]);
        self.add(
            "OV4",
            (2, 0),
            1000,
            "How many transactions were there?",
            "The month saw {0} transactions in all",
            vec![Part::Count(n)],
        );
        let variation = all.variation();
        let class = usize::from(variation >= 250_000) + usize::from(variation > 2_250_000);
        let clear = [250_000, 2_250_000]
            .into_iter()
            .map(|t: u64| variation.abs_diff(t) * 1000 / t)
            .min()
            .unwrap_or(0);
        self.add("OV5", (1, 0), clear,
            "Were amounts consistent (coefficient of variation under 0.5), variable (over 1.5) or moderate (between)? Use \
             that word.",
            "The spread of the amounts across the table was {0} as such things go", vec![Part::Label(2, class)]);
    }

    fn time(&mut self) {
        let (table, total) = (self.table, self.total);
        let halves = self.group(|r| usize::from(r.day > 15), 2, |_| true);
        let (a, b) = (halves[0].revenue, halves[1].revenue);
        let change = share(b.abs_diff(a), a);
        if let Part::Percent(points) = change {
            let signed = points as i64 * if b < a { -1 } else { 1 };
            let class = match signed {
                25_001.. => 0,
                10_001.. => 1,
                -9_999.. => 2,
                -24_999.. => 3,
                _ => 4,
            };
            let clear = [25_000, 10_000, -10_000, -25_000]
                .into_iter()
                .map(|t: i64| signed.abs_diff(t))
                .min()
                .unwrap_or(0);
            self.add("TM1", (2, 1), if a > 0 { clear / 20 } else { 0 },
                "By how many percent did revenue of days 16 and later differ from that of days 1 to 15? Say surged (more \
                 than 25 up), improved (10 to 25 up), steady (within 10), weakened (10 to 25 down) or slumped.",
                "Set beside the days before it, the latter part of the month was best described as {1}, being {0} away",
                vec![change, Part::Label(1, class)]);
        }
        let weeks =
            Ranking::new(&self.group(|r| table.week(r) as usize, 54, |_| true), |_, s| Some(s.revenue));
        for (code, weeks, which) in
            [("TM2", &weeks, "highest"), ("TM3", &Ranking(weeks.0.iter().rev().copied().collect()), "lowest")]
        {
            if let Some((ids, margin)) = weeks.first(1) {
                self.add(
                    code,
                    (2, 1),
                    margin,
                    format!("Which ISO week had the {which} revenue, and how much was it?"),
                    &format!("By week, revenue was {which} in week {{0}} with {{1}}"),
                    vec![Part::Count(ids[0] as u64), Part::Money(weeks.value(0))],
                );
            }
        }
        let days = self.group(|r| table.weekday(r), WEEKDAYS.len(), |_| true);
        let best = Ranking::new(&days, |_, s| Some(s.revenue));
        self.first(
            "TM4",
            (2, 0),
            (Dim::Weekday, &best),
            "Which weekday had the highest revenue in all, and how much was it?",
            "Of the weekdays {0} had the highest revenue with {1}",
            &[Part::Money(best.value(0))],
        );
        let worst = best.ascending();
        self.first(
            "TM5",
            (2, 0),
            (Dim::Weekday, &worst),
            "Which weekday had the lowest revenue in all, and how much was it?",
            "Of the weekdays {0} had the lowest revenue with {1}",
            &[Part::Money(worst.value(0))],
        );
        self.add(
            "TM6",
            (1, 0),
            1000,
            "Which share of total revenue fell on Saturdays and Sundays?",
            "The weekends carried {0} of all revenue",
            vec![share(days[5].revenue + days[6].revenue, total)],
        );
    }

    fn reps(&mut self) -> Option<usize> {
        let (table, total) = (self.table, self.total);
        let groups = self.group(|r| r.rep, REPS, |_| true);
        let target = |i: usize| table.rep_targets[i];
        let revenue = Ranking::new(&groups, |_, s| Some(s.revenue));
        let top = revenue.0.first()?.0;
        self.first(
            "RP1",
            (3, 1),
            (Dim::Rep, &revenue),
            "Which salesperson had the highest revenue, how much was it, and which share of the total?",
            "The best salesperson was {0} with {1}, or {2} of the total",
            &[Part::Money(revenue.value(0)), share(revenue.value(0), total)],
        );
        self.second("RP2", 2, (Dim::Rep, &revenue), "salesperson");
        self.three("RP3", 3, (Dim::Rep, &revenue), "salespeople", "highest");
        self.joint("RP4", 2, &revenue, "salespeople");
        let bottom = Ranking::new(&groups, |_, s| Some(s.revenue)).ascending();
        self.first(
            "RP5",
            (3, 1),
            (Dim::Rep, &bottom),
            "Which salesperson with any sales had the lowest revenue, and how much was it?",
            "The weakest salesperson with any sales was {0} with {1}",
            &[Part::Money(bottom.value(0))],
        );
        self.three(
            "RP6",
            2,
            (Dim::Rep, &bottom),
            "salespeople (of those with any sales, lowest first)",
            "lowest",
        );
        let reached = (0..REPS).filter(|&i| groups[i].revenue >= target(i)).count() as u64;
        let clear =
            (0..REPS).map(|i| groups[i].revenue.abs_diff(target(i)) * 1000 / target(i)).min().unwrap_or(0);
        let of_these = (0..REPS).filter(|&i| groups[i].revenue >= target(i)).map(|i| groups[i].revenue).sum();
        self.add(
            "RP7",
            (3, 0),
            clear,
            "How many salespeople reached their own target, and which share of total revenue did they have together?",
            "In all {0} salespeople reached their target, with {1} of the revenue",
            vec![Part::Count(reached), share(of_these, total)],
        );
        // Revenue over target in thousandths of a point.
        let ratio = |i: usize, s: &Sums| match share(s.revenue, target(i)) {
            Part::Percent(points) => Some(points),
            _ => None,
        };
        let ratios = Ranking::new(&groups, ratio);
        self.first("RP8", (3, 1), (Dim::Rep, &ratios),
            "Which salesperson had the highest revenue as a percentage of the own target, and which percentage?",
            "Measured by the own target {0} did best at {1}", &[Part::Percent(ratios.value(0))]);
        let worst = Ranking::new(&groups, ratio).ascending();
        self.first("RP9", (3, 1), (Dim::Rep, &worst),
            "Which salesperson with any sales had the lowest revenue as a percentage of the own target, and which \
             percentage?",
            "Measured by the own target {0} did worst at {1}", &[Part::Percent(worst.value(0))]);
        let counts = Ranking::new(&groups, |_, s| Some(s.count));
        self.first(
            "RP10",
            (2, 1),
            (Dim::Rep, &counts),
            "Which salesperson closed the most transactions, and how many?",
            "The most transactions were closed by {0} with {1} of them",
            &[Part::Count(counts.value(0))],
        );
        let means = Ranking::new(&groups, |_, s| (s.count >= 3).then(|| s.mean()));
        self.first("RP11", (2, 1), (Dim::Rep, &means),
            "Of the salespeople with at least three transactions, who had the highest mean amount, and which?",
            "The highest mean amount was that of {0} at {1}", &[Part::Money(means.value(0))]);
        let means = means.ascending();
        self.first(
            "RP12",
            (2, 1),
            (Dim::Rep, &means),
            "Of the salespeople with at least three transactions, who had the lowest mean amount, and which?",
            "The lowest mean amount was that of {0} at {1}",
            &[Part::Money(means.value(0))],
        );
        let spread = Ranking::new(&groups, |_, s| (s.count >= 3).then(|| s.variation())).ascending();
        self.first("RP13", (1, 0), (Dim::Rep, &spread),
            "Of the salespeople with at least three transactions, whose amounts had the lowest coefficient of variation?",
            "The most even amounts were those of {0} by far", &[]);
        let sum: u64 = ratios.0.iter().map(|e| e.1).sum();
        self.add("RP14", (2, 0), 1000,
            "What is the mean, over the salespeople with any sales, of revenue as a percentage of the own target?",
            "On average a salesperson reached {0} of the own target",
            vec![Part::Percent(sum / (ratios.0.len() as u64).max(1))]);
        Some(top)
    }

    fn products(&mut self) -> Option<(usize, usize)> {
        let (table, total) = (self.table, self.total);
        let n = table.products.len();
        let groups = self.group(|r| r.product, n, |_| true);
        let revenue = Ranking::new(&groups, |_, s| Some(s.revenue));
        self.first(
            "PR1",
            (3, 1),
            (Dim::Product, &revenue),
            "Which product had the highest revenue, how much was it, and which share of the total?",
            "The best product was {0} with {1}, or {2} of the total",
            &[Part::Money(revenue.value(0)), share(revenue.value(0), total)],
        );
        self.second("PR2", 2, (Dim::Product, &revenue), "product");
        self.three("PR3", 2, (Dim::Product, &revenue), "products", "highest");
        self.joint("PR4", 2, &revenue, "products");
        let bottom = Ranking::new(&groups, |_, s| Some(s.revenue)).ascending();
        self.first(
            "PR5",
            (1, 0),
            (Dim::Product, &bottom),
            "Which product with any sales had the lowest revenue?",
            "The product with the lowest revenue was {0} this month",
            &[],
        );
        let units = Ranking::new(&groups, |_, s| Some(s.units));
        self.first(
            "PR6",
            (3, 1),
            (Dim::Product, &units),
            "Which product sold the most units, and how many?",
            "The most units were sold of {0} with {1} of them",
            &[Part::Count(units.value(0))],
        );
        if let Some((ids, margin)) = units.first(1) {
            let place = revenue.0.iter().position(|e| e.0 == ids[0]).unwrap_or(0);
            let of = |k: usize| revenue.value(k);
            let near = [place.checked_sub(1).map(&of), Some(of(place + 1))];
            let gap = near
                .into_iter()
                .flatten()
                .map(|v| v.abs_diff(of(place)) * 1000 / v.max(of(place)).max(1))
                .min();
            self.add(
                "PR7",
                (2, 0),
                margin.min(gap.unwrap_or(0)),
                "Which product sold the most units, and which rank does it have by revenue (as a plain number)?",
                "The most units were sold of {0}, which has rank {1} by revenue",
                vec![Part::Entity(Dim::Product, ids[0]), Part::Count(place as u64 + 1)],
            );
        }
        let categories = self.group(|r| table.products[r.product].category, CATEGORIES.len(), |_| true);
        let category = Ranking::new(&categories, |_, s| Some(s.revenue));
        self.first(
            "CA1",
            (3, 1),
            (Dim::Category, &category),
            "Which product category had the highest revenue, and which share of the total?",
            "The best category was {0} with {1} of the total",
            &[share(category.value(0), total)],
        );
        self.joint("CA2", 1, &category, "product categories");
        let lowest = Ranking::new(&categories, |_, s| Some(s.revenue)).ascending();
        self.first(
            "CA3",
            (1, 0),
            (Dim::Category, &lowest),
            "Which product category with any sales had the lowest revenue, and which share of the total?",
            "The category with the lowest revenue was {0} with {1} of the total",
            &[share(lowest.value(0), total)],
        );
        let cities = self.group(|r| r.city, table.cities.len(), |_| true);
        let city = Ranking::new(&cities, |_, s| Some(s.revenue));
        self.first(
            "CI1",
            (2, 1),
            (Dim::City, &city),
            "Which city had the highest revenue, and which share of the total?",
            "The best city was {0} with {1} of the total",
            &[share(city.value(0), total)],
        );
        self.second("CI2", 2, (Dim::City, &city), "city");
        self.three("CI3", 2, (Dim::City, &city), "cities", "highest");
        let lowest = Ranking::new(&cities, |_, s| Some(s.revenue)).ascending();
        self.first(
            "CI4",
            (1, 0),
            (Dim::City, &lowest),
            "Which city with any sales had the lowest revenue?",
            "The city with the lowest revenue was {0} this month",
            &[],
        );
        let means = Ranking::new(&cities, |_, s| (s.count >= 3).then(|| s.mean()));
        self.first(
            "CI5",
            (1, 0),
            (Dim::City, &means),
            "Of the cities with at least three transactions, which had the highest mean amount?",
            "The city with the highest mean amount was {0} this month",
            &[],
        );
        Some((category.0.first()?.0, city.0.first()?.0))
    }

    fn customers(&mut self) {
        let (table, total) = (self.table, self.total);
        let is_new = |r: &Row| table.is_new[r.customer];
        let groups = self.group(|r| r.customer, table.customers.len(), |_| true);
        let new = (0..groups.len()).filter(|&i| table.is_new[i] && groups[i].count > 0).count() as u64;
        let both = self.group(|r| usize::from(is_new(r)), 2, |_| true);
        self.add("CU1", (3, 1), 1000,
            "How many different new customers bought anything, and which share of total revenue came from them?",
            "There were {0} new customers, who brought {1} of all revenue",
            vec![Part::Count(new), share(both[1].revenue, total)]);
        let (old_mean, new_mean) = (both[0].mean(), both[1].mean());
        if both.iter().all(|s| s.count > 0) {
            let change = share(new_mean.abs_diff(old_mean), old_mean);
            let clear = new_mean.abs_diff(old_mean) * 1000 / old_mean.max(1);
            self.add("CU2", (2, 1), clear,
                "Was the mean amount of a transaction of new customers higher or lower than that of the others, and by how \
                 many percent?",
                "The mean amount of new customers was {1} than that of others by {0}",
                vec![change, Part::Label(3, usize::from(new_mean < old_mean))]);
        }
        let revenue = Ranking::new(&groups, |_, s| Some(s.revenue));
        self.first(
            "CU3",
            (1, 1),
            (Dim::Customer, &revenue),
            "Which customer brought the highest revenue, and how much?",
            "The best customer was {0} with {1}",
            &[Part::Money(revenue.value(0))],
        );
        self.joint("CU4", 1, &revenue, "customers");
        for (code, dim, n, what) in
            [("CU5", Dim::Rep, REPS, "salesperson"), ("CU6", Dim::City, table.cities.len(), "city")]
        {
            let mut pairs: Vec<(usize, usize)> = (table.rows.iter().filter(|r| is_new(r)))
                .map(|r| (if dim == Dim::Rep { r.rep } else { r.city }, r.customer))
                .collect();
            pairs.sort_unstable();
            pairs.dedup();
            let mut sums = vec![Sums::default(); n];
            pairs.iter().for_each(|&(i, _)| sums[i].count += 1);
            let ranking = Ranking::new(&sums, |_, s| Some(s.count));
            self.first(
                code,
                (1, 0),
                (dim, &ranking),
                &format!("Which {what} had the most different new customers?"),
                &format!("The {what} with the most new customers was {{0}} this month"),
                &[],
            );
        }
    }

    fn crossed(&mut self, rep: usize, (category, city): (usize, usize)) {
        let table = self.table;
        let category_of = |r: &Row| table.products[r.product].category;
        type Of<'a> = &'a dyn Fn(&Row) -> usize;
        type Wanted<'a> = &'a dyn Fn(&Row) -> bool;
        let by_rep: Wanted = &|r| r.rep == rep;
        let by_category: Wanted = &|r| category_of(r) == category;
        let by_city: Wanted = &|r| r.city == city;
        let (reps, products, cities): (Of, Of, Of) = (&|r| r.rep, &|r| r.product, &|r| r.city);
        let best_rep = "the salesperson with the highest revenue";
        let best_category = "the category with the highest revenue";
        let best_city = "the city with the highest revenue";
        for (code, priority, dim, of, wanted, what, within) in [
            ("CR1", 2, Dim::Product, products, by_rep, "product", best_rep),
            ("CR2", 2, Dim::Category, &category_of as Of, by_rep, "product category", best_rep),
            ("CR3", 2, Dim::City, cities, by_rep, "city", best_rep),
            ("CR4", 2, Dim::Product, products, by_category, "product", best_category),
            ("CR5", 2, Dim::Rep, reps, by_category, "salesperson", best_category),
            ("CR6", 1, Dim::Product, products, by_city, "product", best_city),
            ("CR7", 1, Dim::Rep, reps, by_city, "salesperson", best_city),
        ] {
            let ranking = Ranking::new(&self.group(of, 64, wanted), |_, s| Some(s.revenue));
            self.first(
                code,
                (priority, 2),
                (dim, &ranking),
                &format!("Within the transactions of {within}, which {what} had the highest revenue?"),
                &format!("Inside {within} the leading {what} was {{0}} again"),
                &[],
            );
        }
    }

    /// Questions about single things, of which there are always enough.
    fn singles(&mut self, targets: &SalesTargets) {
        let table = self.table;
        let reps = self.group(|r| r.rep, REPS, |_| true);
        for (i, sums) in reps.iter().enumerate().filter(|(_, s)| s.count > 0) {
            let name = targets.name(Dim::Rep, i);
            self.add(
                "SR",
                (0, 0),
                1000,
                format!("How much revenue did {name} have?"),
                "Sales of {0} came to {1}",
                vec![Part::Entity(Dim::Rep, i), Part::Money(sums.revenue)],
            );
        }
        let products = self.group(|r| r.product, table.products.len(), |_| true);
        for (i, sums) in products.iter().enumerate().filter(|(_, s)| s.count > 0) {
            let name = targets.name(Dim::Product, i);
            self.add(
                "SP",
                (0, 0),
                1000,
                format!("Which share of total revenue did {name} have?"),
                "The share of {0} came to {1}",
                vec![Part::Entity(Dim::Product, i), share(sums.revenue, self.total)],
            );
        }
        let customers = self.group(|r| r.customer, table.customers.len(), |_| true);
        for (i, sums) in customers.iter().enumerate().filter(|(_, s)| s.count > 0).take(40) {
            let name = targets.name(Dim::Customer, i);
            self.add(
                "SC",
                (0, 0),
                1000,
                format!("How much did {name} spend in all?"),
                "Purchases of {0} came to {1}",
                vec![Part::Entity(Dim::Customer, i), Part::Money(sums.revenue)],
            );
        }
    }
}

/// All that can be asked.
pub(super) fn catalogue(table: &Table, targets: &SalesTargets) -> Vec<Candidate> {
    let mut all = Catalogue { table, total: table.total(), found: Vec::new() };
    all.overview();
    all.time();
    let rep = all.reps();
    let tops = all.products();
    all.customers();
    if let (Some(rep), Some(tops)) = (rep, tops) {
        all.crossed(rep, tops);
    }
    all.singles(targets);
    all.found
}

/// Totals by salesperson, product, city and week, for the easiest instances.
pub(super) fn pivots(table: &Table, targets: &SalesTargets) -> String {
    let catalogue = Catalogue { table, total: table.total(), found: Vec::new() };
    let mut text = String::from("\ntotals:\n");
    let mut list = |what: &str, groups: Vec<Sums>, name: &dyn Fn(usize) -> String| {
        for (i, sums) in groups.iter().enumerate().filter(|(_, s)| s.count > 0) {
            let revenue = super::table::dollars(sums.revenue);
            text.push_str(&format!("{what} {}: {revenue}, {} transactions\n", name(i), sums.count));
        }
    };
    let all = |_: &Row| true;
    list("salesperson", catalogue.group(|r| r.rep, REPS, all), &|i| targets.name(Dim::Rep, i));
    list("product", catalogue.group(|r| r.product, table.products.len(), all), &|i| {
        targets.name(Dim::Product, i)
    });
    list("city", catalogue.group(|r| r.city, table.cities.len(), all), &|i| targets.name(Dim::City, i));
    list("week", catalogue.group(|r| table.week(r) as usize, 54, all), &|i| i.to_string());
    text
}
