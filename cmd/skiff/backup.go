package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/snapshot"
	"github.com/skiff-k8s/skiff/apiserver/maintain"
	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/guard"
)

func backupCommand() *cobra.Command {
	var storage string
	var o operator
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Keep all that a cluster has stored in a file",
		Long: `Asks a running server for all that it has stored at one revision; others may go on writing.
With --storage, reads the storage itself, with or without servers that use it (file:// is used
by one process at a time).

The backup holds every Secret of the cluster. It is checked while it is written, and takes the
place of FILE only when it is complete and on disk. "-" is the standard output.`,
		Example: "  KUBECONFIG=/var/lib/skiff/admin.kubeconfig skiff backup monday.backup",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			write := func(w io.Writer) error { return o.stream(cmd.Context(), maintain.PathBackup, w) }
			if storage != "" {
				write = func(w io.Writer) error {
					return reading(storage, func(b backend.Backend) error { return snapshot.Write(cmd.Context(), w, b, untold) })
				}
			}
			m := newMeter(cmd.ErrOrStderr(), "backed up")
			made, err := backUp(files[0], cmd.OutOrStdout(), m, write)
			m.end()
			if err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "backed up %d entries at revision %d\n", made.entries, made.revision)
			return nil
		},
	}
	o.flags(cmd.Flags())
	cmd.Flags().StringVar(&storage, "storage", "", "read the storage with this URL instead of asking a server")
	return cmd
}

func untold(int, int) {}

// made is what a backup holds.
type made struct {
	entries  int
	revision int64
}

// backUp makes a backup by write, into a file or out, and reads it while it is
// written: what cannot be restored is no backup.
func backUp(name string, out io.Writer, m *meter, write func(io.Writer) error) (b made, err error) {
	if name == "-" {
		return verified(out, m, write)
	}
	err = atomicfile.Replace(name, 0o600, func(to *os.File) error {
		b, err = verified(to, m, write)
		return err
	})
	return b, err
}

// verified has write written to out and read as a backup.
func verified(out io.Writer, m *meter, write func(io.Writer) error) (made, error) {
	in, pipe := io.Pipe()
	written := make(chan error, 1)
	guard.Go("backup", func() {
		err := guard.Call("backup", func() error { return write(io.MultiWriter(out, pipe)) })
		pipe.CloseWithError(err)
		written <- err
	})
	b, err := readBackup(in, m)
	in.CloseWithError(err)
	if failed := <-written; failed != nil {
		return b, failed
	}
	return b, err
}

func readBackup(in io.Reader, m *meter) (b made, err error) {
	r, err := snapshot.NewReader(in)
	if err != nil {
		return b, err
	}
	defer r.Close()
	b.revision = r.Revision
	for _, err := range r.Entries() {
		if err != nil {
			return b, err
		}
		b.entries++
		m.tell(b.entries, 0)
	}
	return b, nil
}

func openBackup(name string, in io.Reader) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(in), nil
	}
	return os.Open(name)
}
