package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// lockWait is how many seconds a program waits for another that holds the lock
// of the tables. Then it fails, and its caller tries again.
const lockWait = "30"

// Hook is a jump from a chain of the kernel to one of an owner's.
type Hook struct {
	Table, From, Chain string
	Match              []string
	// Last puts the jump behind what other programs have there, not before it.
	Last bool
}

// Keeper keeps the chains of one owner, and the hooks that lead to them, in the
// network namespace of the process. Other programs change the same tables; they
// may also empty them, which Intact notices.
type Keeper struct {
	program  string // iptables or ip6tables
	prefixes []string
	hooks    []Hook
	// applied is how many rules each chain of a table was left with; nil if what is
	// there is not known.
	applied map[string]map[string]int
}

// NewKeeper returns the keeper of all chains of an IP family whose names begin with
// one of prefixes. Hooks in front of a chain of the kernel come in the order of the list.
func NewKeeper(f corev1.IPFamily, prefixes []string, hooks []Hook) *Keeper {
	return &Keeper{program: program(f), prefixes: prefixes, hooks: hooks}
}

// program changes the tables of a family; those that save and restore them are
// named after it.
func program(f corev1.IPFamily) string {
	if f == corev1.IPv6Protocol {
		return "ip6tables"
	}
	return "iptables"
}

// Supports says what the host lacks for rules of a family.
func Supports(f corev1.IPFamily) error {
	for _, name := range []string{program(f), program(f) + "-save", program(f) + "-restore"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("a node needs %s (Debian package iptables): %w", name, err)
		}
	}
	if out, err := exec.Command(program(f), "-w", lockWait, "-t", "nat", "-S", "POSTROUTING").CombinedOutput(); err != nil {
		return fmt.Errorf("the kernel has no rules of %s: %w: %s", f, err, bytes.TrimSpace(out))
	}
	return nil
}

// Apply makes the owner's chains those of the given tables, one transaction per
// table. All calls must give the same tables.
func (k *Keeper) Apply(ctx context.Context, tables ...*Rules) error {
	fresh := k.applied == nil
	var input strings.Builder
	next := make(map[string]map[string]int)
	for _, r := range tables {
		had, err := k.existing(ctx, r.table)
		if err != nil {
			return err
		}
		next[r.table] = r.count()
		input.WriteString(r.text(slices.DeleteFunc(had, r.has)))
	}
	k.applied = nil // until all that follows is done
	if err := k.restore(ctx, input.String()); err != nil {
		return err
	}
	// Hooks come after the chains are full, so that no packet meets an empty one.
	if fresh {
		if err := k.hang(ctx); err != nil {
			return err
		}
	}
	k.applied = next
	return nil
}

// Known reports whether it is known what is there, which Change needs.
func (k *Keeper) Known() bool { return k.applied != nil }

// Change makes what was old of the owner's chains new, and leaves the rest as it
// is. In the shared chains the order of rules means nothing, and only those that
// differ are written; other chains are written as a whole.
func (k *Keeper) Change(ctx context.Context, shared []string, old, new []*Rules) error {
	var input strings.Builder
	next := make(map[string]map[string]int)
	for i := range new {
		e := change(shared, old[i], new[i])
		if !e.empty() {
			input.WriteString(e.text())
		}
		count := k.applied[e.table]
		for chain, n := range new[i].count() {
			if !slices.Contains(shared, chain) {
				count[chain] = n
			}
		}
		for _, chain := range e.stale {
			delete(count, chain)
		}
		for _, chain := range shared {
			if _, there := count[chain]; there {
				count[chain] += len(new[i].lines[chain]) - len(old[i].lines[chain])
			}
		}
		next[e.table] = count
	}
	k.applied = nil // until all that follows is done
	if input.Len() > 0 {
		if err := k.restore(ctx, input.String()); err != nil {
			return err
		}
	}
	k.applied = next
	return nil
}

func change(shared []string, old, new *Rules) *edit {
	e := &edit{table: new.table}
	for _, chain := range old.chains {
		if !slices.Contains(shared, chain) && !new.has(chain) {
			e.stale = append(e.stale, chain)
		}
	}
	for _, chain := range new.chains {
		if slices.Contains(shared, chain) || old.has(chain) && slices.Equal(old.lines[chain], new.lines[chain]) {
			continue
		}
		e.chains = append(e.chains, chain)
		e.add("-A ", new.lines[chain])
	}
	for _, chain := range shared {
		gone, come := difference(old.lines[chain], new.lines[chain])
		e.add("-D ", gone)
		e.add("-I ", come)
	}
	return e
}

// difference is the lines of each that the other does not have.
func difference(old, new []string) (gone, come []string) {
	count := make(map[string]int)
	for _, line := range old {
		count[line]++
	}
	for _, line := range new {
		if count[line]--; count[line] < 0 {
			come = append(come, line)
		}
	}
	for _, line := range old {
		if count[line] > 0 {
			count[line]--
			gone = append(gone, line)
		}
	}
	return gone, come
}

// existing are the owner's chains in a table.
func (k *Keeper) existing(ctx context.Context, table string) ([]string, error) {
	if k.applied != nil {
		return slices.Sorted(maps.Keys(k.applied[table])), nil
	}
	found, err := k.read(ctx, table)
	return slices.Sorted(maps.Keys(found.rules)), err
}

// hang makes sure of the hooks.
func (k *Keeper) hang(ctx context.Context) error {
	var first, last []Hook
	for _, h := range k.hooks {
		if h.Last {
			last = append(last, h)
		} else {
			first = append(first, h)
		}
	}
	slices.Reverse(first) // each goes to the front
	for _, h := range append(first, last...) {
		rule := append([]string{"-w", lockWait, "-t", h.Table, "-C", h.From}, append(h.Match, "-j", h.Chain)...)
		if run(ctx, "", k.program, rule...) == nil {
			continue
		}
		rule[4] = "-I"
		if h.Last {
			rule[4] = "-A"
		}
		if err := run(ctx, "", k.program, rule...); err != nil {
			return err
		}
	}
	return nil
}

// Intact reports whether chains and hooks are as Apply left them. If not, the
// next Apply makes everything anew.
func (k *Keeper) Intact(ctx context.Context) (bool, error) {
	if k.applied == nil {
		return false, nil
	}
	for table, count := range k.applied {
		found, err := k.read(ctx, table)
		if err != nil {
			return false, err
		}
		if !maps.Equal(found.rules, count) || !k.hangs(table, found.jumps) {
			k.applied = nil
			return false, nil
		}
	}
	return true, nil
}

// hangs reports whether all hooks of a table are among the jumps.
func (k *Keeper) hangs(table string, jumps []string) bool {
	for _, h := range k.hooks {
		if h.Table == table && !slices.ContainsFunc(jumps, func(jump string) bool {
			return strings.HasPrefix(jump, "-A "+h.From+" ") && strings.HasSuffix(jump, "-j "+h.Chain)
		}) {
			return false
		}
	}
	return true
}

// Remove takes the hooks and chains away from the given tables, of this run or
// an earlier one.
func (k *Keeper) Remove(ctx context.Context, tables ...string) error {
	k.applied = nil
	var errs []error
	for _, table := range tables {
		found, err := k.read(ctx, table)
		if err != nil || len(found.rules) == 0 {
			errs = append(errs, err)
			continue
		}
		e := &edit{table: table, stale: slices.Sorted(maps.Keys(found.rules))}
		for _, jump := range found.jumps {
			e.lines = append(e.lines, "-D"+strings.TrimPrefix(jump, "-A"))
		}
		errs = append(errs, k.restore(ctx, e.text()))
	}
	return errors.Join(errs...)
}

// state is what the kernel has of an owner in a table.
type state struct {
	rules map[string]int // how many rules each of the owner's chains has
	jumps []string       // the rules of other chains that jump to one of them
}

func (k *Keeper) read(ctx context.Context, table string) (state, error) {
	saved, err := save(ctx, k.program, table)
	if err != nil {
		return state{}, err
	}
	return k.parse(saved), nil
}

// Save is what iptables-save says of a table of a family.
func Save(ctx context.Context, f corev1.IPFamily, table string) (string, error) {
	return save(ctx, program(f), table)
}

func save(ctx context.Context, program, table string) (string, error) {
	out, err := exec.CommandContext(ctx, program+"-save", "-t", table).Output()
	if err != nil {
		return "", fmt.Errorf("%s-save -t %s: %w", program, table, err)
	}
	return string(out), nil
}

// parse reads what iptables-save says.
func (k *Keeper) parse(text string) state {
	s := state{rules: make(map[string]int)}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case len(words) < 3:
		case line[0] == ':' && k.owns(words[0][1:]):
			s.rules[words[0][1:]] += 0
		case words[0] == "-A" && k.owns(words[1]):
			s.rules[words[1]]++
		case words[0] == "-A" && words[len(words)-2] == "-j" && k.owns(words[len(words)-1]):
			s.jumps = append(s.jumps, line)
		}
	}
	return s
}

func (k *Keeper) owns(chain string) bool {
	return slices.ContainsFunc(k.prefixes, func(prefix string) bool { return strings.HasPrefix(chain, prefix) })
}

func (k *Keeper) restore(ctx context.Context, input string) error {
	return run(ctx, input, k.program+"-restore", "-w", lockWait, "--noflush", "--counters")
}

func run(ctx context.Context, input, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
