package nettest

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// look prints what a namespace has: rules of both kinds and families, sets, virtual servers, links, addresses, routes of
// all tables, neighbours and forwardings that somebody wrote, queues, and settings.
const look = `set -e
iptables-save; ip6tables-save; nft list ruleset
ipset save
if [ -e /proc/net/ip_vs ]; then cat /proc/net/ip_vs; fi
for names in /proc/net/ip_tables_names /proc/net/ip6_tables_names; do
	if [ -e $names ]; then sed s/^/legacy/ $names; fi
done
ip -o link | sed 's/^[0-9]*: /link /'
ip -o address | sed 's/^[0-9]*: /address /'
for family in -4 -6; do
	ip $family route show table all | sed "s/^/route $family /"
	ip $family rule | sed "s/^/rule $family /"
	ip $family neighbour show nud permanent | sed "s/^/neighbour $family /"
done
bridge fdb | sed 's/^/forwarding /'
tc qdisc | sed 's/^/queue /'
sysctl --all --pattern '^net\.' 2>/dev/null
`

// volatile is what changes by itself: comments with the time, counters, addresses and numbers of links that the kernel
// draws, some of them a while after the link was switched on, how long something still counts, whether an address
// is looked at yet, groups that links have joined by themselves, and how many flows are remembered.
var volatile = regexp.MustCompile(`(?m)^#.*\n| tentative|\[\d+:\d+\]| counter packets \d+ bytes \d+|@if\d+|link-netnsid \d+|(link/\w+|brd) ([0-9a-f]{2}:)+[0-9a-f]{2}|` +
	`^forwarding (33:33|01:00:5e):.*\n|^(address .* inet6|route -6 (local|anycast)) fe80::.*\n|(valid_lft|preferred_lft|expires) \w+|^net\.netfilter\.nf_conntrack_count.*\n|^IP Virtual Server version.*\n`)

// empty are tables and chains of the kernel that iptables made for some program and left without rules. They are whose
// who uses iptables next. A chain that drops what no rule is about is not empty.
var empty = regexp.MustCompile(`(?m)^(\*|:[A-Z]+ ACCEPT|COMMIT|table ip6? (raw|mangle|nat|filter|security) \{|\tchain [A-Z]+ \{|\t\ttype .* policy accept;|\t?\}|$).*\n`)

// State is what the kernel has been told about the network of a namespace, a line for each, sorted. It is the same as
// long as nobody changes anything, and again when all is undone.
func (n *Namespace) State(t testing.TB) string {
	t.Helper()
	text := empty.ReplaceAllString(volatile.ReplaceAllString(n.Run(t, "sh", "-c", look), ""), "")
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}

// Difference are the lines that one of two states has and the other has not, those of the first with a minus.
func Difference(before, after string) string {
	var lines strings.Builder
	for _, side := range []struct{ sign, has, other string }{{"-", before, after}, {"+", after, before}} {
		others := slices.Collect(strings.Lines(side.other))
		for line := range strings.Lines(side.has) {
			if i := slices.Index(others, line); i >= 0 {
				others = slices.Delete(others, i, i+1)
				continue
			}
			lines.WriteString(side.sign + line)
		}
	}
	return lines.String()
}
