// Command skiff is a Kubernetes in one program: a whole cluster on one machine
// (up), and each of its components alone.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/footprint"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/guard/clientgo"
)

// version is set by the linker.
var version = "unknown"

func main() {
	clientgo.Survive()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	guard.Go("footprint", func() { footprint.Keep(ctx) })
	program := called(os.Args[0])
	if err := program.ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, program.Name()+":", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "skiff",
		Short:         "A Kubernetes that fits in one small program",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags())
		},
	}
	root.AddCommand(
		upCommand(), downCommand(), statusCommand(), logsCommand(), imageCommand(), certsCommand(),
		kubeconfigCommand(), serviceCommand(),
		storageCommand(), backupCommand(), restoreCommand(),
		apiserverCommand(), controllersCommand(), schedulerCommand(), kubeletCommand(), proxyCommand(),
		nodeCommand(), envtestAssetsCommand(), versionCommand(),
	)
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which version this is",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "skiff", version) },
	}
}

// fromEnvironment takes flags that were not given from SKIFF_…: --data-dir from
// SKIFF_DATA_DIR.
func fromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "SKIFF_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || f.Changed {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

// logTo sends what components and libraries have to say to file, or nowhere if
// that is empty; "-" is the standard error.
func logTo(file string, level slog.Leveler) (*slog.Logger, error) {
	log := slog.New(slog.DiscardHandler)
	switch file {
	case "":
	case "-":
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	default:
		out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		log = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	}
	slog.SetDefault(log)
	klog.SetSlogLogger(log)
	return log, nil
}
