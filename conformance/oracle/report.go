package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// pair is what both servers answered to the requests of a case.
type pair struct {
	real, skiff       []answer
	realErr, skiffErr error
}

// both plays a case on both servers at the same time.
func both(ctx context.Context, s *servers, t testCase) pair {
	var p pair
	var wait sync.WaitGroup
	wait.Go(func() { p.real, p.realErr = play(ctx, s.real, t) })
	wait.Go(func() { p.skiff, p.skiffErr = play(ctx, s.skiff, t) })
	wait.Wait()
	return p
}

// report collects differences.
type report struct {
	known []known
	used  map[int]int

	kind                  string
	names                 *strings.Replacer // from names of the kind to what kinds have in common
	started               time.Time
	requests, different   int
	total, meant, unmeant int
	rows                  []row
	groups                map[string]*group
	mistakes              []string
}

// row is what became of a kind.
type row struct {
	kind                string
	requests, different int
}

// group are differences that look alike, most likely of one cause.
type group struct {
	difference string
	kinds      map[string]int
	examples   []string
}

func newReport(list []known) *report {
	return &report{known: list, used: make(map[int]int), groups: make(map[string]*group)}
}

func (r *report) begin(kind string) {
	r.names = strings.NewReplacer()
	r.kind, r.started, r.requests, r.different = kind, time.Now(), 0, 0
}

func (r *report) end() {
	r.total += r.requests
	r.rows = append(r.rows, row{r.kind, r.requests, r.different})
	fmt.Printf("%-60s %6d requests  %5d differences  %4.0fs\n", r.kind, r.requests, r.different, time.Since(r.started).Seconds())
}

// beginKind lets differences be grouped that have but the kind's own names in
// them.
func (r *report) beginKind(k kind) {
	r.begin(k.String())
	group, _, grouped := strings.Cut(k.GroupVersion, "/")
	pairs := []string{`"min\"`, `"<name>\"`, `"full\"`, `"<name>\"`, `"derived\"`, `"<name>\"`, `"wrong\"`, `"<name>\"`}
	if grouped {
		pairs = append(pairs, k.Name+"."+group, "<kinds>", k.Kind+"."+group, "<Kind>")
	}
	r.names = strings.NewReplacer(append(pairs, k.Name+" ", "<kinds> ", k.Kind+" ", "<Kind> ", `"`+k.Kind, `"<Kind>`)...)
}

// unwritten notes a kind without samples: a mistake of the corpus.
func (r *report) unwritten(k kind) {
	r.mistakes = append(r.mistakes, fmt.Sprintf("%s: corpus/kinds.yaml has no objects of it", k))
}

func (r *report) missing(k kind) {
	r.note("not served", testCase{Name: "discovery"}, request{Method: "GET", Path: k.root()}, "")
}

// add compares the answers to one case.
func (r *report) add(t testCase, p pair) {
	r.requests += len(t.Requests)
	switch {
	case p.realErr == nil:
	case strings.Contains(p.realErr.Error(), "INTERNAL_ERROR"): // it panicked; the rest of the case is not compared
		r.note("no answer of kube-apiserver: "+p.realErr.Error(), t, request{}, "")
	default:
		r.mistakes = append(r.mistakes, fmt.Sprintf("%s: %s: %v", r.kind, t.Name, p.realErr))
	}
	if p.skiffErr != nil {
		r.note("no answer: "+p.skiffErr.Error(), t, request{}, "")
	}
	for i := range min(len(p.real), len(p.skiff)) {
		q := t.Requests[i]
		if wanted := q.Code; wanted == 1 && p.real[i].Code >= 400 || wanted > 1 && p.real[i].Code != wanted {
			r.mistakes = append(r.mistakes, fmt.Sprintf("%s: %s: %s: kube-apiserver answers %d: %s", r.kind, t.Name, q, p.real[i].Code, shorten(message(p.real[i].Body), 400)))
		}
		if q.Quiet {
			continue
		}
		for _, d := range differences(p.real[i], p.skiff[i]) {
			r.note(d, t, q, body(q))
		}
	}
}

func body(q request) string {
	if q.Merge != nil {
		return "merged with " + text(q.Merge)
	}
	return q.Body
}

// generally are what is left out of differences of documents, so that one cause
// is one group.
var generally = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`^\.(definitions|components\.schemas|paths|parameters)\.\S+: (missing|got [^,]*nothing).*`), ".$1.<whole>: $2"},
	{regexp.MustCompile(`^\.paths\.\S*?(\.(?:get|put|post|patch|delete|options|head|parameters)\b)`), ".paths.<path>$1"},
	{regexp.MustCompile(`^\.(definitions|components\.schemas)\.[a-z0-9.-]*\.([A-Z]\w*)([.:])`), ".schemas.$2$3"},
	{regexp.MustCompile(`^\.(paths|schemas)(\S*): (missing, want|got) \{.*`), ".$1$2: $3 {…}"},
}

func (r *report) note(difference string, t testCase, q request, sent string) {
	for i, k := range r.known {
		if k.kind.MatchString(r.kind) && k.name.MatchString(t.Name+": "+q.String()) && k.difference.MatchString(difference) {
			r.used[i]++
			r.meant++
			return
		}
	}
	r.unmeant++
	r.different++
	difference = r.names.Replace(difference)
	for _, g := range generally {
		difference = g.pattern.ReplaceAllString(difference, g.by)
	}
	g := r.groups[difference]
	if g == nil {
		g = &group{difference: difference, kinds: make(map[string]int)}
		r.groups[difference] = g
	}
	g.kinds[r.kind]++
	g.examples = append(g.examples, fmt.Sprintf("%s: %s: %s %s", r.kind, t.Name, q, shorten(sent, 600)))
}

// finish prints the groups, largest first.
func (r *report) finish(s settings) error {
	to := io.Writer(os.Stdout)
	if s.out != "" {
		f, err := os.Create(s.out)
		if err != nil {
			return err
		}
		defer f.Close()
		r.print(f, true)
	}
	r.print(to, s.verbose)
	if s.to != "" && s.whole() {
		if err := r.writeResults(s); err != nil {
			return err
		}
	}
	if len(r.mistakes) > 0 {
		return fmt.Errorf("%d mistakes in the cases: kube-apiserver does not answer as they say", len(r.mistakes))
	}
	if r.unmeant > 0 {
		return errDiffer
	}
	return nil
}

// heading begins this instrument's part of the results.
const heading = "## The oracle\n"

// writeResults replaces the oracle's part of the results, the last one.
func (r *report) writeResults(s settings) error {
	version, err := exec.Command(s.skiff, "version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", s.skiff, err)
	}
	old, err := os.ReadFile(s.to)
	if err != nil {
		return err
	}
	suite, _, _ := strings.Cut(string(old), heading)
	var to strings.Builder
	fmt.Fprintf(&to, "%s%s\nDate: %s. Commit: %s. Skiff and kube-apiserver 1.36.3 were asked the same by `make oracle`.\n\n",
		suite, heading, time.Now().UTC().Format("2006-01-02 15:04 UTC"), strings.TrimSpace(strings.TrimPrefix(string(version), "skiff ")))
	different := slices.DeleteFunc(slices.Clone(r.rows), func(r row) bool { return r.different == 0 })
	fmt.Fprintf(&to, "**%d requests, %d differences**, in %d of %d kinds and sets of requests. Besides them %d are known (below).\n",
		r.total, r.unmeant, len(different), len(r.rows), r.meant)
	if len(different) > 0 {
		fmt.Fprintln(&to, "\n| where | requests | differences |\n|---|---|---|")
	}
	for _, r := range different {
		fmt.Fprintf(&to, "| %s | %d | %d |\n", r.kind, r.requests, r.different)
	}
	r.printKnown(&to)
	return os.WriteFile(s.to, []byte(to.String()), 0o644)
}

// printKnown tells how often each known difference was met, and why it is one.
func (r *report) printKnown(to io.Writer) {
	if r.meant == 0 {
		return
	}
	fmt.Fprintln(to, "\n| known difference (`oracle/known.yaml`) | times |\n|---|---|")
	met := slices.SortedFunc(maps.Keys(r.used), func(a, b int) int { return cmp.Or(cmp.Compare(r.used[b], r.used[a]), cmp.Compare(a, b)) })
	for _, i := range met {
		fmt.Fprintf(to, "| %s | %d |\n", strings.TrimSpace(strings.ReplaceAll(r.known[i].Reason, "|", `\|`)), r.used[i])
	}
}

func (r *report) print(to io.Writer, all bool) {
	groups := slices.SortedFunc(maps.Values(r.groups), func(a, b *group) int {
		return cmp.Or(cmp.Compare(len(b.examples), len(a.examples)), cmp.Compare(a.difference, b.difference))
	})
	for _, g := range groups {
		fmt.Fprintf(to, "\n%d× %s\n    in %s\n", len(g.examples), g.difference, counts(g.kinds))
		shown := g.examples
		if !all {
			shown = shown[:1]
		}
		for _, e := range shown {
			fmt.Fprintf(to, "    %s\n", e)
		}
	}
	if len(r.mistakes) > 0 {
		fmt.Fprintln(to, "\nMistakes in the cases:")
		for _, m := range r.mistakes {
			fmt.Fprintln(to, "   ", m)
		}
	}
	fmt.Fprintf(to, "\n%d requests: %d differences in %d groups, and %d known ones (known.yaml)\n", r.total, r.unmeant, len(groups), r.meant)
}

func counts(kinds map[string]int) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		list = append(list, fmt.Sprintf("%s (%d)", k, kinds[k]))
	}
	if len(list) > 8 {
		list = append(list[:8], fmt.Sprintf("and %d more", len(list)-8))
	}
	return strings.Join(list, ", ")
}

func shorten(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
