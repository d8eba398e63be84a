(() => {
  'use strict';
  const root = document.documentElement, all = (q, e = document) => [...e.querySelectorAll(q)];
  root.classList.add('js');

  // Theme: ?theme= in the address, else the choice made last, else the system's.
  const store = { get: () => { try { return localStorage.getItem('report-theme') } catch { return null } },
    set: v => { try { localStorage.setItem('report-theme', v) } catch { /* file or private window: not kept */ } } };
  const theme = document.getElementById('theme-' + (new URLSearchParams(location.search).get('theme') || store.get()));
  if (theme) theme.checked = true;
  all('input[name=theme]').forEach(i => i.addEventListener('change', () => store.set(i.value)));

  // Numbers as the page writes them.
  const sci = v => v.toExponential(2).replace(/e\+?(-?)(\d+)/, (_, s, d) => '×10' + (s && '⁻') + [...d].map(c => '⁰¹²³⁴⁵⁶⁷⁸⁹'[c]).join(''));
  const plain = v => { const a = Math.abs(v);
    return (a === 0 ? '0' : a < 5e-4 || a >= 1e9 ? sci(v) : a >= 999.5 ? Math.round(v).toLocaleString('en-US')
      : v.toFixed(a >= 99.95 ? 0 : a >= 9.995 ? 1 : a >= .0995 ? 2 : a >= .00995 ? 3 : 4)).replace('-', '−') };
  const show = (v, unit) => v == null ? '–' : unit === 'Share' ? (v * 100).toFixed(v === 0 || v === 1 || (Math.abs(v) >= .0995 && Math.abs(v) < .8995) ? 0 : 1).replace('-', '−') + '%' : plain(v);

  // One cursor for all charts: they share the step.
  const charts = all('svg[data-chart]').map(svg => {
    const d = JSON.parse(svg.dataset.chart), fig = svg.closest('figure');
    const title = svg.querySelector('title'), make = (n, p) => p.appendChild(document.createElementNS(svg.namespaceURI, n));
    svg.setAttribute('aria-label', title.textContent); svg.removeAttribute('aria-labelledby');
    title.remove(); // its browser tooltip would cover the read-out
    svg.tabIndex = 0;
    const g = make('g', svg); g.setAttribute('class', 'cursor'); g.style.display = 'none';
    const line = make('path', g), dots = d.series.map(s => { const c = make('circle', g); c.setAttribute('class', 's' + s.c); c.setAttribute('r', 3.4); return c });
    const values = all('.read b', fig), at = fig.querySelector('.read .at'), rest = values.map(b => b.textContent);
    const f = v => d.log ? Math.log10(v) : v;
    const X = v => d.x[2] + (v - d.x[0]) / (d.x[1] - d.x[0]) * (d.x[3] - d.x[2]);
    const Y = v => d.y[2] + (f(v) - f(d.y[0])) / (f(d.y[1]) - f(d.y[0])) * (d.y[3] - d.y[2]);
    const near = (xs, s) => { let a = 0, b = xs.length - 1; while (b - a > 1) { const m = a + b >> 1; xs[m] <= s ? a = m : b = m } return s - xs[a] <= xs[b] - s ? a : b };
    const main = d.series.reduce((a, s) => s.x.length > a.x.length ? s : a);
    return { svg, main, fig, step: px => d.x[0] + (px - d.x[2]) / (d.x[3] - d.x[2]) * (d.x[1] - d.x[0]), near,
      set(step) {
        if (step == null || step < d.x[0] || step > d.x[1]) { g.style.display = 'none'; at.textContent = ''; values.forEach((b, i) => b.textContent = rest[i]); return }
        const shown = main.x[near(main.x, step)];
        g.style.display = ''; at.textContent = 'step ' + shown.toLocaleString('en-US');
        line.setAttribute('d', `M${X(shown)} ${d.y[3]}V${d.y[2]}`);
        d.series.forEach((s, i) => { const k = near(s.x, shown), v = s.y[k], y = v == null ? NaN : Y(v);
          if (values[i]) values[i].textContent = show(v, d.unit);
          dots[i].style.display = isFinite(y) ? '' : 'none';
          if (isFinite(y)) { dots[i].setAttribute('cx', X(s.x[k])); dots[i].setAttribute('cy', y) } });
      } };
  });
  let wanted, queued = false;
  const broadcast = step => { wanted = step; if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; charts.forEach(c => c.set(wanted)) }) } };
  charts.forEach(c => {
    let k = c.main.x.length - 1;
    c.svg.addEventListener('pointermove', e => { const m = c.svg.getScreenCTM(); broadcast(c.step((e.clientX - m.e) / m.a)) });
    c.svg.addEventListener('pointerleave', () => broadcast(null));
    c.svg.addEventListener('focus', () => { if (c.svg.matches(':focus-visible')) { c.fig.querySelector('.read').setAttribute('aria-live', 'polite'); broadcast(c.main.x[k]) } });
    c.svg.addEventListener('blur', () => { c.fig.querySelector('.read').removeAttribute('aria-live'); broadcast(null) });
    c.svg.addEventListener('keydown', e => {
      const n = c.main.x.length, to = { ArrowLeft: k - 1, ArrowRight: k + 1, PageDown: k - 10, PageUp: k + 10, Home: 0, End: n - 1 }[e.key];
      if (e.key === 'Escape') return broadcast(null);
      if (to === undefined) return;
      e.preventDefault(); k = Math.max(0, Math.min(n - 1, to)); broadcast(c.main.x[k]);
    });
  });

  // Samples: one step at a time.
  const slider = document.getElementById('step'), steps = all('.step');
  if (slider) {
    const pick = () => { steps.forEach((s, i) => s.classList.toggle('on', i === +slider.value));
      const now = steps[+slider.value].dataset.step; document.getElementById('step-now').textContent = now; slider.setAttribute('aria-valuetext', 'step ' + now) };
    slider.addEventListener('input', pick); pick();
  }

  // Tokens: arrow keys move within a response, its numbers are read out.
  const read = document.getElementById('tok-read');
  all('.toks[tabindex]').forEach(box => {
    const toks = all('i', box); let k = -1;
    const mark = on => { const t = toks[k]; if (!t) return; t.classList.toggle('at', on); read.textContent = on ? `“${t.textContent}” ${t.title}` : '' };
    box.addEventListener('keydown', e => {
      const to = { ArrowLeft: k - 1, ArrowRight: k + 1, Home: 0, End: toks.length - 1 }[e.key];
      if (to === undefined) return;
      e.preventDefault(); mark(false); k = Math.max(0, Math.min(toks.length - 1, to)); mark(true); toks[k].scrollIntoView({ block: 'nearest' });
    });
    box.addEventListener('blur', () => mark(false));
  });
})();
