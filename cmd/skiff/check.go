package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/apiserver/maintain"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

func checkCommand() *cobra.Command {
	var o operator
	var keys encryption.Config
	cmd := &cobra.Command{
		Use:   "check [URL]",
		Short: "See whether what is stored is sound",
		Long: `Reads all that is stored at one revision, and sees that every object can be decoded and is where its
name says, that revisions are consistent, and that nothing is there twice.

With a URL, reads that storage itself, with or without servers that use it (file:// is used by one
process at a time). Without, asks a running server, which compares its cache with the storage
besides.`,
		Example: "  skiff storage check file:///var/lib/skiff/store",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, urls []string) error {
			report, err := o.check(cmd.Context(), urls, keys, cmd.ErrOrStderr())
			if err != nil {
				return fmt.Errorf("check: %w", err)
			}
			return say(cmd.OutOrStdout(), report)
		},
	}
	o.flags(cmd.Flags())
	keys.AddFlags(cmd.Flags())
	return cmd
}

func (o *operator) check(ctx context.Context, urls []string, keys encryption.Config, terminal io.Writer) (report store.Report, err error) {
	if len(urls) == 0 {
		var answer bytes.Buffer
		if err := o.stream(ctx, maintain.PathCheck, &answer); err != nil {
			return report, err
		}
		return report, json.Unmarshal(answer.Bytes(), &report)
	}
	m := newMeter(terminal, "checked")
	defer m.end()
	err = reading(urls[0], func(b backend.Backend) error {
		report, err = apiserver.CheckStorage(ctx, b, keys, m.tell)
		return err
	})
	if errors.Is(err, backend.ErrInUse) {
		err = fmt.Errorf("%w; leave out the URL to ask the server that uses it", err)
	}
	return report, err
}

// errUnsound: a check has found something.
var errUnsound = errors.New("the storage is not sound")

// say tells people what a check has found.
func say(out io.Writer, r store.Report) error {
	fmt.Fprintf(out, "%d entries at revision %d", r.Entries, r.Revision)
	if r.Compared > 0 {
		fmt.Fprintf(out, ", %d of them compared with the cache", r.Compared)
	}
	fmt.Fprintln(out)
	for _, name := range slices.Sorted(maps.Keys(r.Unserved)) {
		fmt.Fprintf(out, "note: %d entries of %s belong to no kind that is served\n", r.Unserved[name], name)
	}
	if r.Encrypted > 0 {
		fmt.Fprintf(out, "note: %d objects are encrypted and were not looked into: give the --encryption-provider-config of the server\n", r.Encrypted)
	}
	for _, p := range r.Problems {
		fmt.Fprintln(out, "problem:", p)
	}
	if r.Found > len(r.Problems) {
		fmt.Fprintf(out, "and %d more problems\n", r.Found-len(r.Problems))
	}
	if r.Found > 0 {
		return fmt.Errorf("%w: %d problems", errUnsound, r.Found)
	}
	fmt.Fprintln(out, "no problems")
	return nil
}
