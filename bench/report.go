package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/bench/quantile"
)

// engineReport is what the comparison of engines found so far, in Markdown.
func engineReport(results []result, n engineScale) string {
	var b strings.Builder
	for i, clients := range n.clients {
		fmt.Fprintf(&b, "### %s, %s\n\n", plural(clients, "client"), plural(n.watchers, "watcher"))
		b.WriteString(markdown(levelHead, results, func(r result) []string { return r.levelRow(i) }))
	}
	fmt.Fprintf(&b, "### Times as much as the server it is compared with\n\n")
	b.WriteString(markdown(ratioHead(n), measured(results), func(r result) []string { return ratioRow(r, results) }))
	fmt.Fprintf(&b, "### Processors, at %s\n\n", plural(n.clients[len(n.clients)-1], "client"))
	b.WriteString(markdown(costHead, results, func(r result) []string { return r.costRow(len(n.clients) - 1) }))
	fmt.Fprintf(&b, "### %s of one object, %d updates, one every %v; start and memory\n\n", plural(n.watchers, "watcher"), n.updates, n.pace)
	b.WriteString(markdown(otherHead, results, result.otherRow))
	for _, r := range results {
		for _, why := range r.failures() {
			fmt.Fprintf(&b, "- %s: %s\n", r.name(), why)
		}
	}
	return b.String()
}

// markdown is a table with a row for each result, which begins with storage and server.
func markdown(head []string, results []result, row func(result) []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| storage | server | %s |\n|---|---%s|\n", strings.Join(head, " | "), strings.Repeat("|---:", len(head)))
	for _, r := range results {
		cells := row(r)
		for len(cells) < len(head) {
			cells = append(cells, "–") // it was not measured
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.storage, r.server, strings.Join(cells, " | "))
	}
	return b.String() + "\n"
}

var levelHead = []string{"creates/s", "p50 ms", "p99 ms", "updates/s", "p50 ms", "p99 ms", "failed", "lag p50 ms", "lag p99 ms", "events delivered"}

func (r result) levelRow(i int) []string {
	if i >= len(r.levels) {
		return nil
	}
	l := r.levels[i]
	failed := l.created.failed + l.updated.failed
	return slices.Concat(l.created.cells(), l.updated.cells(), []string{share(failed, failed+l.writes())}, l.seen.cells())
}

func (l level) writes() int { return len(l.created.answers) + len(l.updated.answers) }

func (w writes) cells() []string {
	if len(w.took) == 0 {
		return []string{"0", "–", "–"}
	}
	return []string{digits(w.rate()), ms(quantile.Of(w.took, 0.5)), ms(quantile.Of(w.took, 0.99))}
}

func (s sight) cells() []string {
	return []string{ms(quantile.Of(s.lags, 0.5)), ms(quantile.Of(s.lags, 0.99)), share(len(s.lags), s.due)}
}

func ms(d time.Duration) string { return digits(inMillis(d)) }

// share is a part of all in percent, which is only none or all if it is.
func share(part, of int) string {
	if part == 0 || of == 0 {
		return "0"
	}
	percent := 100 * float64(part) / float64(of)
	if part < of {
		percent = min(percent, 99.99)
	}
	return fmt.Sprintf("%.4g %%", max(percent, 0.01))
}

func ratioHead(n engineScale) (head []string) {
	head = []string{"beside"}
	for _, what := range []string{"creates", "updates"} {
		for _, clients := range n.clients {
			head = append(head, fmt.Sprintf("%s, %s", what, plural(clients, "client")))
		}
	}
	return append(head, "writes for the same processor time of servers")
}

// measured are the results of Skiff.
func measured(results []result) []result {
	return slices.DeleteFunc(slices.Clone(results), func(r result) bool { return r.beside == "" })
}

func ratioRow(r result, all []result) []string {
	i := slices.IndexFunc(all, func(other result) bool { return other.beside == "" && other.storage == r.beside })
	if i < 0 {
		return nil
	}
	other := all[i]
	cells := []string{other.name()}
	n := min(len(r.levels), len(other.levels))
	for _, of := range []func(level) float64{func(l level) float64 { return l.created.rate() }, func(l level) float64 { return l.updated.rate() }} {
		for i := range n {
			cells = append(cells, times(of(r.levels[i]), of(other.levels[i])))
		}
	}
	if n == 0 {
		return cells
	}
	return append(cells, times(other.levels[n-1].serverCost(), r.levels[n-1].serverCost()))
}

func times(a, b float64) string {
	if b == 0 {
		return "–"
	}
	return digits(a / b)
}

// serverCost is the processor time of server and database for a write, in µs.
func (l level) serverCost() float64 { return l.cost(l.spent.server + l.spent.database) }

func (l level) cost(d time.Duration) float64 {
	if l.writes() == 0 {
		return 0
	}
	return float64(d.Microseconds()) / float64(l.writes())
}

var costHead = []string{"server, µs a write", "database, µs", "client, µs", "client's share", "processors busy with it"}

func (r result) costRow(i int) []string {
	if i >= len(r.levels) {
		return nil
	}
	l := r.levels[i]
	return []string{
		digits(l.cost(l.spent.server)), digits(l.cost(l.spent.database)), digits(l.cost(l.spent.client)),
		fmt.Sprintf("%.0f %%", 100*float64(l.spent.client)/float64(max(1, l.spent.all()))),
		fmt.Sprintf("%.1f of %d", float64(l.spent.all())/float64(max(1, l.took)), runtime.NumCPU()),
	}
}

var otherHead = []string{"lag p50 ms", "lag p99 ms", "events delivered", "ready after s", "server's memory MiB"}

func (r result) otherRow() []string {
	if r.failed != nil {
		return nil
	}
	return append(r.fanOut.cells(), digits(r.ready.Seconds()), digits(float64(r.memory)/(1<<20)))
}

// failures are what went wrong, in words.
func (r result) failures() (all []string) {
	if r.failed != nil {
		all = append(all, "not measured to the end: "+oneLine(r.failed))
	}
	for _, l := range r.levels {
		for what, w := range map[string]writes{"creates": l.created, "updates": l.updated} {
			if w.failed > 0 {
				all = append(all, fmt.Sprintf("%d %s failed at %s, the first with: %s", w.failed, what, plural(l.clients, "client"), oneLine(w.why)))
			}
		}
		if l.seen.broken > 0 {
			all = append(all, fmt.Sprintf("%d watches ended and were resumed at %s", l.seen.broken, plural(l.clients, "client")))
		}
	}
	slices.Sort(all)
	return all
}

// oneLine is what an error says, for an item of a list.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(fmt.Sprint(err)), " ")
	return strings.ToValidUTF8(text[:min(len(text), 600)], "")
}
