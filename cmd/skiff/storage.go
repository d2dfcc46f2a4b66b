package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/apiserver/backend/snapshot"
)

func storageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "storage",
		Short: "Copy what a cluster keeps to another storage, or check it",
		Long: `A cluster keeps its objects in a storage, which is named by a URL (skiff up --storage URL):

` + engines.Help + `
To move a cluster to another storage: stop it, copy, and start it with the new URL. Clients go
on where they were, and containers run on if skiff was killed rather than stopped.

skiff backup and skiff restore keep a copy in a file instead, also of a cluster that runs.`,
	}
	cmd.AddCommand(copyCommand(), checkCommand())
	return cmd
}

func copyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "copy FROM TO",
		Short: "Copy all that is in one storage into another one, which must be empty",
		Long: `Copies objects with their revisions and lifetimes, and with the history that watches resume from,
so that clients notice nothing but a restart. Stop the servers of FROM first: what they write
while it is copied is not in the copy. A copy that was interrupted is refused by servers.`,
		Example: "  skiff storage copy file:///var/lib/skiff/store file:///srv/skiff.db",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, urls []string) (err error) {
			from, err := engines.OpenExisting(urls[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, from.Close()) }()
			to, err := engines.Open(urls[1])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, to.Close()) }()
			m := newMeter(cmd.ErrOrStderr(), "copied")
			copied, err := snapshot.Copy(cmd.Context(), from, to, m.tell)
			m.end()
			if err != nil {
				return fmt.Errorf("copy: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "copied %d entries; the newest revision is %d, watches can be resumed from %d on\n", copied.Entries, copied.Newest, copied.Oldest)
			return nil
		},
	}
}

const storageUsage = "URL of the storage; " + engines.Short

func restoreCommand() *cobra.Command {
	var storage string
	var bump int64
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Fill an empty storage with a backup",
		Long: `Restores a backup into a storage that nobody uses and nothing was written to. Nothing is written
unless all of the backup is sound. The next start of a server on that storage has the objects of
the backup.

Revisions go on far above those of the backup, so that none is used twice: what was written
after the backup was made is lost, and clients that saw it start over. By default a thousand
million are left out. etcd makes them one by one; there it is a hundred for each second since
the backup, a million at least. Where more was written in that time, say so by --bump-revision.`,
		Example: "  skiff restore monday.backup --storage file:///var/lib/skiff/store",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			in, err := openBackup(files[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			defer in.Close()
			restored, err := restore(cmd.Context(), in, storage, bump, cmd.ErrOrStderr())
			if err != nil {
				return fmt.Errorf("restore %s: %w", files[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "restored %d entries as of %s; the newest revision is %d, with %d left out for what was written since\n",
				restored.Entries, restored.Time.Format("2006-01-02 15:04:05 MST"), restored.Revision, restored.LeftOut)
			return nil
		},
	}
	cmd.Flags().StringVar(&storage, "storage", "", storageUsage)
	cmd.Flags().Int64Var(&bump, "bump-revision", snapshot.DefaultBump, "how many revisions to leave out after those of the backup: more than were made after it (-1: what surely is)")
	if err := cmd.MarkFlagRequired("storage"); err != nil {
		panic(err) // the flag is not defined above
	}
	return cmd
}

func restore(ctx context.Context, in io.Reader, storage string, bump int64, terminal io.Writer) (restored snapshot.Restored, err error) {
	to, err := engines.Open(storage)
	if err != nil {
		return restored, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	m := newMeter(terminal, "restored")
	defer m.end()
	return snapshot.Restore(ctx, in, to, bump, m.tell)
}

// reading opens a storage only to read it.
func reading(url string, read func(backend.Backend) error) error {
	b, err := engines.OpenExisting(url)
	if err != nil {
		return err
	}
	return errors.Join(read(b), b.Close())
}
