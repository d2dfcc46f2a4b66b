package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cluster"
)

func certsCommand() *cobra.Command {
	var c cluster.Config
	cmd := &cobra.Command{Use: "certs", Short: "Show the certificates of the cluster, or make them anew"}
	dataDirFlag(cmd.PersistentFlags(), &c)
	cmd.AddCommand(
		&cobra.Command{
			Use: "show", Short: "List the certificates and when they end", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				all, err := cluster.Certificates(c)
				if err != nil {
					return err
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "NAME\tSUBJECT\tENDS\tLEFT")
				for _, one := range all {
					fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", one.Name, one.Subject, one.Ends.UTC().Format(time.RFC3339), left(one.Ends, time.Now()))
				}
				return table.Flush()
			},
		},
		&cobra.Command{
			Use: "renew [NAME…]", Short: "Make certificates anew, by default all but authorities; the cluster may run meanwhile",
			RunE: func(cmd *cobra.Command, names []string) error {
				renewed, err := cluster.RenewCertificates(c, names...)
				for _, name := range renewed {
					fmt.Fprintln(cmd.OutOrStdout(), name, "is renewed")
				}
				return err
			},
		},
	)
	return cmd
}

// left is how long a certificate is still good.
func left(ends, now time.Time) string {
	if !ends.After(now) {
		return "ended"
	}
	return fmt.Sprintf("%d days", int(ends.Sub(now)/(24*time.Hour)))
}
