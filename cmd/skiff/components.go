package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/scheduler"
)

// client is how a component that runs alone reaches an API server.
type client struct {
	kubeconfig  string
	leaderElect bool
}

func (c *client) flags(flags *pflag.FlagSet) {
	flags.StringVar(&c.kubeconfig, "kubeconfig", "", "how to reach the API server, and as whom (default: in a pod, its service account)")
}

func (c *client) electionFlag(flags *pflag.FlagSet) {
	flags.BoolVar(&c.leaderElect, "leader-elect", true, "work only while no other replica does")
}

func (c *client) config(component string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.QPS = -1
	config.UserAgent = "skiff/" + component
	return config, nil
}

// lead runs work, once this process is the leader if leaders are elected. The
// lease is given up only when work has ended; if it is lost before, work is
// told to end and lead returns errLeaseLost, for its replacement must be alone.
func (c *client) lead(ctx context.Context, name string, clients kubernetes.Interface, work func(context.Context) error) error {
	if !c.leaderElect {
		return work(ctx)
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	leading := make(chan context.Context, 1) // ends when the lease is lost
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name},
			Client:     clients.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: fmt.Sprintf("%s_%d", host, os.Getpid())},
		},
		LeaseDuration:   15 * time.Second,
		RenewDeadline:   10 * time.Second,
		RetryPeriod:     2 * time.Second,
		ReleaseOnCancel: true,
		Name:            name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) { leading <- held },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}
	election, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	var running guard.Group
	running.Go("leader election", func() { elector.Run(election) })
	defer running.Wait()
	defer giveUp()
	select {
	case <-ctx.Done():
		return nil
	case held := <-leading:
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(held, cancel)()
		if err := work(ctx); err != nil {
			return err
		}
		if held.Err() != nil {
			return errLeaseLost
		}
		return nil
	}
}

var errLeaseLost = errors.New("the lease of the leader was lost")

const loadBalancersUsage = "where Services of type LoadBalancer have their addresses from: nodes, none, or a range as 192.0.2.0/28 or 192.0.2.10-192.0.2.20, or one of each IP family joined by a comma"

func controllersCommand() *cobra.Command {
	var c client
	var rootCA, tokenKey, signingCA, signingKey string
	var config controllers.Config
	cmd := &cobra.Command{
		Use:   "controllers",
		Short: "Run the controllers alone, against any API server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := logTo("-", slog.LevelInfo); err != nil {
				return err
			}
			restConfig, err := c.config("controllers")
			if err != nil {
				return err
			}
			config.API = restConfig
			if config.Client, err = kubernetes.NewForConfig(restConfig); err != nil {
				return err
			}
			if config.Metadata, err = metadata.NewForConfig(restConfig); err != nil {
				return err
			}
			for _, file := range []struct {
				name    string
				content *[]byte
			}{{rootCA, &config.RootCA}, {tokenKey, &config.ServiceAccountKey}, {signingCA, &config.SigningCA}, {signingKey, &config.SigningKey}} {
				if file.name == "" {
					continue
				}
				if *file.content, err = os.ReadFile(file.name); err != nil {
					return err
				}
			}
			config.Informers = informers.NewSharedInformerFactory(config.Client, 0)
			return c.lead(cmd.Context(), "kube-controller-manager", config.Client, func(ctx context.Context) error {
				manager, err := controllers.New(config)
				if err != nil {
					return err
				}
				config.Informers.Start(ctx.Done())
				defer config.Informers.Shutdown()
				return manager.Run(ctx)
			})
		},
	}
	c.flags(cmd.Flags())
	c.electionFlag(cmd.Flags())
	cmd.Flags().StringVar(&rootCA, "root-ca-file", "", "certificate to publish to pods as kube-root-ca.crt")
	cmd.Flags().StringVar(&tokenKey, "service-account-private-key-file", "", "key that signs the tokens in Secrets of service accounts (default: leave those Secrets empty)")
	cmd.Flags().StringVar(&signingCA, "cluster-signing-cert-file", "", "authority that signs requests for certificates")
	cmd.Flags().StringVar(&signingKey, "cluster-signing-key-file", "", "its key (default: sign none)")
	cmd.MarkFlagsRequiredTogether("cluster-signing-cert-file", "cluster-signing-key-file")
	cmd.Flags().DurationVar(&config.LegacyTokenPeriod, "legacy-service-account-token-clean-up-period", 365*24*time.Hour, "time without use after which a token that was made unasked is cleaned up")
	cmd.Flags().TextVar(&config.LoadBalancers, "load-balancer-addresses", config.LoadBalancers, loadBalancersUsage)
	cmd.Flags().TextVar(&config.PodCIDRs, "cluster-cidr", family.Ranges{}, "range to divide among the nodes, or one of each IP family, the primary one first (default: give nodes none)")
	return cmd
}

func schedulerCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "scheduler",
		Short: "Run the scheduler alone, against any API server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logTo("-", slog.LevelInfo)
			if err != nil {
				return err
			}
			config, err := c.config("scheduler")
			if err != nil {
				return err
			}
			clients, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return c.lead(cmd.Context(), "kube-scheduler", clients, func(ctx context.Context) error {
				factory := informers.NewSharedInformerFactory(clients, 0)
				s, err := scheduler.New(scheduler.Config{Client: clients, Informers: factory, Log: log})
				if err != nil {
					return err
				}
				factory.Start(ctx.Done())
				defer factory.Shutdown()
				return s.Run(ctx)
			})
		},
	}
	c.flags(cmd.Flags())
	c.electionFlag(cmd.Flags())
	return cmd
}
