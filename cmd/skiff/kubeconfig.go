package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skiff-k8s/skiff/cluster"
)

func kubeconfigCommand() *cobra.Command {
	var c cluster.Config
	var merge bool
	var name string
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig, or merge it into your own",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := clientcmd.LoadFromFile(adminFile(c.DataDir))
			if err != nil {
				return err
			}
			if admin, err = renamed(admin, name); err != nil {
				return err
			}
			if !merge {
				text, err := clientcmd.Write(*admin)
				if err == nil {
					_, err = cmd.OutOrStdout().Write(text)
				}
				return err
			}
			paths := clientcmd.NewDefaultPathOptions()
			if err := mergeInto(paths, admin); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "kubectl uses the context %q of %s from now on\n", name, paths.GetDefaultFilename())
			return nil
		},
	}
	dataDirFlag(cmd.Flags(), &c)
	cmd.Flags().BoolVar(&merge, "merge", false, "add it to the kubeconfig that kubectl uses, as its current context")
	cmd.Flags().StringVar(&name, "context", "skiff", "name of the context, its cluster and its user")
	return cmd
}

// renamed is a kubeconfig of one cluster in which everything has one name, so that it does not meet another's.
func renamed(config *clientcmdapi.Config, name string) (*clientcmdapi.Config, error) {
	current := config.Contexts[config.CurrentContext]
	if current == nil || config.Clusters[current.Cluster] == nil || config.AuthInfos[current.AuthInfo] == nil {
		return nil, fmt.Errorf("the administrator's kubeconfig has no context %q that is whole", config.CurrentContext)
	}
	fresh := clientcmdapi.NewConfig()
	fresh.Clusters[name], fresh.AuthInfos[name] = config.Clusters[current.Cluster].DeepCopy(), config.AuthInfos[current.AuthInfo].DeepCopy()
	// They come from no file of the person's.
	fresh.Clusters[name].LocationOfOrigin, fresh.AuthInfos[name].LocationOfOrigin = "", ""
	fresh.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: current.Namespace}
	fresh.CurrentContext = name
	return fresh, nil
}

// mergeInto adds what fresh has to the files of paths, and makes its context the current one. What else is there stays.
func mergeInto(paths *clientcmd.PathOptions, fresh *clientcmdapi.Config) error {
	config, err := paths.GetStartingConfig()
	if err != nil {
		return err
	}
	for name := range fresh.Contexts {
		cluster, owner, context := fresh.Clusters[name].DeepCopy(), fresh.AuthInfos[name].DeepCopy(), fresh.Contexts[name].DeepCopy()
		if old := config.Clusters[name]; old != nil { // each goes to the file that it comes from
			cluster.LocationOfOrigin = old.LocationOfOrigin
		}
		if old := config.AuthInfos[name]; old != nil {
			owner.LocationOfOrigin = old.LocationOfOrigin
		}
		if old := config.Contexts[name]; old != nil {
			context.LocationOfOrigin, context.Namespace = old.LocationOfOrigin, old.Namespace
		}
		config.Clusters[name], config.AuthInfos[name], config.Contexts[name] = cluster, owner, context
	}
	config.CurrentContext = fresh.CurrentContext
	return clientcmd.ModifyConfig(paths, *config, true)
}
