// Package nftables is a proxy.Backend that rewrites packets with nf_tables, to
// which it speaks itself: the host needs no program for it.
//
// All Services of a family are elements of a few maps. What a rule does depends on
// how many endpoints a front has and how it is to be treated, not on which Service
// it is, so that ten thousand of them share a handful of chains. A change costs the
// elements that differ.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nftables/kernel"
)

// tableName is what the table of each family is called.
const tableName = "skiff-proxy"

// Backend writes tables into the network namespace of the thread.
type Backend struct {
	families   []*family
	last       *proxy.Table // as it was applied; nil if that is not known
	generation uint32       // of the kernel's tables, after it was
}

var _ proxy.Backend = (*Backend)(nil)

// New returns a backend; Available says whether it can work here.
func New() *Backend {
	b := &Backend{}
	for _, l := range []layout{ipv4, ipv6} {
		f := &family{layout: l, table: kernel.Table{Family: l.protocol, Name: tableName}}
		f.forget()
		b.families = append(b.families, f)
	}
	return b
}

// Available says what the kernel lacks, by making a table like ours with another
// name and taking it away again.
func Available() error {
	table := kernel.Table{Family: unix.NFPROTO_IPV4, Name: tableName + "-probe"}
	b := kernel.New(table)
	b.AddTable()
	ipv4.base(b, &proxy.Table{})
	for _, h := range []how{{kind: refused}, {kind: local, all: 1, own: 1, sticky: time.Second, stayAll: "1=192.0.2.1:1"}} {
		ipv4.chain(b, h.chain(0), h, "", netip.Prefix{})
	}
	b.DeleteTable()
	if err := b.Commit(); err != nil {
		return fmt.Errorf("this kernel lacks something of nf_tables: %w", err)
	}
	return nil
}

// Apply makes the tables match t, each family in one transaction.
func (b *Backend) Apply(_ context.Context, t *proxy.Table) error {
	last := b.last
	b.last = nil // until all that follows is done
	if last != nil && !last.SameRanges(t) {
		last = nil
	}
	changes := proxy.Changes(last, t)
	for _, f := range b.families {
		mine := slices.DeleteFunc(slices.Clone(changes), func(c proxy.Change) bool { return familyOf(c) != string(f.ipFamily) })
		if last != nil && len(mine) == 0 {
			continue
		}
		f.known = f.known && last != nil
		err := f.apply(t, mine)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) && f.protocol == unix.NFPROTO_IPV6 && !hasIPv6() {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.ipFamily, err)
		}
	}
	generation, err := kernel.Generation()
	if err != nil {
		return err
	}
	b.last, b.generation = t, generation
	return nil
}

func familyOf(c proxy.Change) string {
	if c.New != nil {
		return string(c.New.Family)
	}
	return string(c.Old.Family)
}

// hasIPv6 reports whether the kernel has the family at all.
func hasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}

// Intact reports whether the tables are as Apply left them. As long as nobody has
// changed any table, that takes one question.
func (b *Backend) Intact(context.Context) (bool, error) {
	if b.last == nil {
		return false, nil
	}
	generation, err := kernel.Generation()
	if err != nil || generation == b.generation {
		return err == nil, err
	}
	for _, f := range b.families {
		intact, err := f.intact()
		if err != nil || !intact {
			b.last = nil
			return false, err
		}
	}
	b.generation = generation
	return true, nil
}

// Remove takes the tables away, of this run or an earlier one.
func (b *Backend) Remove(context.Context) error {
	b.last = nil
	var errs []error
	for _, f := range b.families {
		f.forget()
		batch := kernel.New(f.table)
		batch.AddTable()
		batch.DeleteTable()
		errs = append(errs, batch.Commit())
	}
	return errors.Join(errs...)
}

// Notes are what the owner of the node should know, in whatever mode: chains of others
// that drop what they do not let pass. No chain of another table can let it pass.
// Those of iptables are its own business.
func Notes() (notes []string) {
	for number, name := range map[uint8]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"} {
		chains, err := kernel.Chains(number)
		if err != nil {
			continue // a family that the kernel does not have
		}
		for _, c := range chains {
			byIptables := c.Table == "filter" && c.Name == "FORWARD" && number != unix.NFPROTO_INET
			if c.Table != tableName && !byIptables && c.Drops && c.Hook != nil && c.Hook.Number == unix.NF_INET_FORWARD {
				notes = append(notes, fmt.Sprintf("the chain %s of the table %s %s drops what none of its rules lets pass: traffic of pods must be let pass there", c.Name, name, c.Table))
			}
		}
	}
	slices.Sort(notes)
	return notes
}
