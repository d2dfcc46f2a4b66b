// Package iptables is a proxy.Backend that rewrites packets with the host's
// iptables, in the chains known from Kubernetes' own proxy. Each Apply is one
// transaction of iptables-restore per table.
package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/skiff-k8s/skiff/proxy"
)

// Backend writes rules into the network namespace of the process.
type Backend struct {
	// applied is the text last applied, by table; nil before the first time.
	applied map[string]string
	// chains are those that exist, by table.
	chains map[string][]string
}

var _ proxy.Backend = (*Backend)(nil)

// New returns a backend, or an error that says what the host lacks.
func New() (*Backend, error) {
	for _, program := range []string{"iptables", "iptables-save", "iptables-restore"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("the service proxy needs %s (Debian package iptables): %w", program, err)
		}
	}
	return &Backend{}, nil
}

// Apply makes the rules match t.
func (b *Backend) Apply(ctx context.Context, t *proxy.Table) error {
	if b.applied == nil {
		if err := b.learn(ctx); err != nil {
			return err
		}
	}
	nat, filter := render(t)
	var input strings.Builder
	next := make(map[string]string)
	for _, r := range []*rules{nat, filter} {
		stale := slices.DeleteFunc(slices.Clone(b.chains[r.table]), func(chain string) bool { return r.known[chain] })
		text := r.text(stale)
		next[r.table] = r.text(nil)
		if len(stale) > 0 || b.applied[r.table] != next[r.table] {
			input.WriteString(text)
		}
	}
	if input.Len() == 0 {
		return nil
	}
	if err := restore(ctx, input.String()); err != nil {
		b.applied = nil // whatever is there now is to be learned anew
		return err
	}
	b.applied = next
	b.chains = map[string][]string{"nat": nat.chains, "filter": filter.chains}
	return nil
}

// learn finds the chains an earlier run left and makes sure of the hooks.
func (b *Backend) learn(ctx context.Context) error {
	chains := make(map[string][]string)
	for _, table := range []string{"nat", "filter"} {
		found, err := ownChains(ctx, table)
		if err != nil {
			return err
		}
		chains[table] = found
		if err := restore(ctx, newRules(table).text(nil)); err != nil {
			return err
		}
	}
	for _, h := range slices.Backward(hooks) { // each goes to the front
		rule := append([]string{"-w", "-t", h.table, "-C", h.from}, append(h.match, "-j", h.chain)...)
		if run(ctx, "", "iptables", rule...) == nil {
			continue
		}
		rule[3] = "-I"
		if err := run(ctx, "", "iptables", rule...); err != nil {
			return err
		}
	}
	b.applied, b.chains = make(map[string]string), chains
	return nil
}

// Remove takes the hooks, rules and chains away.
func (b *Backend) Remove(ctx context.Context) error {
	b.applied = nil
	var errs []error
	for _, h := range hooks {
		// It fails when the hook is not there, which is what is wanted.
		_ = run(ctx, "", "iptables", append([]string{"-w", "-t", h.table, "-D", h.from}, append(h.match, "-j", h.chain)...)...)
	}
	for _, table := range []string{"nat", "filter"} {
		chains, err := ownChains(ctx, table)
		if err != nil || len(chains) == 0 {
			errs = append(errs, err)
			continue
		}
		empty := &rules{table: table}
		errs = append(errs, restore(ctx, empty.text(chains)))
	}
	return errors.Join(errs...)
}

// prefixes of the chains that are this backend's.
var prefixes = []string{
	"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
	"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-",
}

// ownChains are the backend's chains that exist in a table.
func ownChains(ctx context.Context, table string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "iptables-save", "-t", table).Output()
	if err != nil {
		return nil, fmt.Errorf("iptables-save -t %s: %w", table, err)
	}
	var chains []string
	for line := range strings.Lines(string(out)) {
		name, ok := strings.CutPrefix(line, ":")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		if slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			chains = append(chains, name)
		}
	}
	return chains, nil
}

func restore(ctx context.Context, input string) error {
	return run(ctx, input, "iptables-restore", "-w", "--noflush", "--counters")
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
