package iptables

import (
	"fmt"
	"strings"
)

// Rules collects the chains and rules of one table, as iptables-restore reads
// them.
type Rules struct {
	table  string
	chains []string
	known  map[string]bool
	lines  []string
}

// NewRules returns the rules of a table, with chains that are there even if empty.
func NewRules(table string, chains ...string) *Rules {
	r := &Rules{table: table, known: make(map[string]bool)}
	for _, chain := range chains {
		r.chain(chain)
	}
	return r
}

// chain declares a chain, which also empties it; it reports whether the chain
// is new here.
func (r *Rules) chain(name string) bool {
	if r.known[name] {
		return false
	}
	r.known[name] = true
	r.chains = append(r.chains, name)
	return true
}

// Add appends a rule to a chain. about becomes its comment unless empty.
func (r *Rules) Add(chain, about, format string, args ...any) {
	line := "-A " + chain
	if about != "" {
		line += fmt.Sprintf(" -m comment --comment %q", about)
	}
	r.lines = append(r.lines, line+" "+fmt.Sprintf(format, args...))
}

// text is the input for iptables-restore; stale chains are emptied and deleted.
func (r *Rules) text(stale []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", r.table)
	for _, chain := range r.chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
	}
	for _, chain := range stale {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
	}
	for _, line := range r.lines {
		b.WriteString(line + "\n")
	}
	for _, chain := range stale {
		fmt.Fprintf(&b, "-X %s\n", chain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// count is how many rules each chain has.
func (r *Rules) count() map[string]int {
	count := make(map[string]int, len(r.chains))
	for _, chain := range r.chains {
		count[chain] = 0
	}
	for _, line := range r.lines {
		count[strings.Fields(line)[1]]++
	}
	return count
}
