package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skiff-k8s/skiff/cluster"
)

const defaultDataDir = "/var/lib/skiff"

// dataDirFlag says which cluster of this machine is meant.
func dataDirFlag(flags *pflag.FlagSet, c *cluster.Config) {
	flags.StringVar(&c.DataDir, "data-dir", defaultDataDir, "all that the cluster keeps")
}

// adminFile is the kubeconfig of the administrator of the cluster that keeps its data in a folder.
func adminFile(dataDir string) string { return filepath.Join(dataDir, "admin.kubeconfig") }

func statusCommand() *cobra.Command {
	var c cluster.Config
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how the cluster of this machine is: its parts, nodes, storage, and what should be looked at",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cluster.Status(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	dataDirFlag(cmd.Flags(), &c)
	return cmd
}

func logsCommand() *cobra.Command {
	var c cluster.Config
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs [PART]",
		Short: "Show what a part of the cluster has said; without a name, which parts there are",
		Args:  cobra.MaximumNArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			parts, err := cluster.LogParts(c)
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return parts, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return cluster.Logs(cmd.Context(), c, args[0], follow, cmd.OutOrStdout())
			}
			parts, err := cluster.LogParts(c)
			if err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(parts, "\n"))
			}
			return err
		},
	}
	dataDirFlag(cmd.Flags(), &c)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is said from now on")
	return cmd
}
