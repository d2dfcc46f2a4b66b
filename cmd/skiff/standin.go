package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/guard"
)

// kubeAPIServerCommand is skiff apiserver with what kube-apiserver calls its flags.
func kubeAPIServerCommand() *cobra.Command {
	cmd := apiserverCommand()
	cmd.Use, cmd.Short = "kube-apiserver", "Skiff's API server, for suites that use envtest"
	cmd.SilenceUsage, cmd.SilenceErrors, cmd.Version = true, true, version
	cmd.SetFlagErrorFunc(refuseFlag)
	flags := cmd.Flags()
	for _, own := range []string{"storage", "listen"} {
		if err := flags.MarkHidden(own); err != nil {
			panic(err) // the flag is not that of skiff apiserver any more
		}
	}
	var etcd []string
	var bind, port, certDir string
	flags.StringSliceVar(&etcd, "etcd-servers", nil, "URL of the etcd: the one of skiff envtest-assets, or a real one")
	flags.StringVar(&bind, "bind-address", "0.0.0.0", "address of the API")
	flags.StringVar(&port, "secure-port", "6443", "port of the API")
	flags.StringVar(&certDir, "cert-dir", "/var/run/kubernetes", "where apiserver.crt and apiserver.key are, unless --tls-cert-file says it")
	meaningless(flags, kubeAPIServerFlags)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkMeaningless(cmd, kubeAPIServerFlags); err != nil {
			return err
		}
		storage, err := storageOf(cmd.Context(), etcd)
		if err != nil {
			return err
		}
		own := map[string]string{"storage": storage, "listen": net.JoinHostPort(bind, port)}
		if !flags.Changed("tls-cert-file") {
			own["tls-cert-file"], own["tls-private-key-file"] = filepath.Join(certDir, "apiserver.crt"), filepath.Join(certDir, "apiserver.key")
		}
		for _, name := range slices.Sorted(maps.Keys(own)) {
			if err := flags.Set(name, own[name]); err != nil {
				return fmt.Errorf("--%s: %w", name, err)
			}
		}
		return nil
	}
	endWithParent(cmd)
	return cmd
}

// etcdCommand says where the API server keeps its objects, which is a file in the data directory of etcd. It speaks no
// protocol of etcd.
func etcdCommand() *cobra.Command {
	var dataDir, name string
	var unsynced bool
	var listen []string
	cmd := &cobra.Command{
		Use: "etcd", Short: "Stand-in for etcd that names the kube-apiserver beside it a file for its objects", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true, Version: version,
		PreRunE: func(cmd *cobra.Command, _ []string) error { return checkMeaningless(cmd, etcdFlags) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dataDir == "" {
				dataDir = name + ".etcd"
			}
			path, err := filepath.Abs(dataDir)
			if err != nil {
				return err
			}
			scheme := "file"
			if unsynced {
				scheme = "unsynced"
			}
			return serveEtcd(cmd.Context(), listen, (&url.URL{Scheme: scheme, Path: path + "/"}).String())
		},
	}
	cmd.SetFlagErrorFunc(refuseFlag)
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "default", "without --data-dir, its name without .etcd")
	flags.StringVar(&dataDir, "data-dir", "", "where the objects are")
	flags.BoolVar(&unsynced, "unsafe-no-fsync", false, "objects need not outlive the machine")
	flags.StringSliceVar(&listen, "listen-client-urls", []string{"http://localhost:2379"}, "where the kube-apiserver asks")
	meaningless(flags, etcdFlags)
	endWithParent(cmd)
	return cmd
}

// storagePath is where the stand-in for etcd says which storage the API server is to use.
const storagePath = "/skiff/storage"

func serveEtcd(ctx context.Context, at []string, storage string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"health":"true","reason":""}`) })
	mux.HandleFunc("GET "+storagePath, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, storage) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, len(at))
	for _, address := range at {
		listener, err := listenAt(address)
		if err != nil {
			return errors.Join(err, server.Close())
		}
		guard.Go("etcd", func() { ended <- server.Serve(listener) })
	}
	select {
	case err := <-ended:
		return errors.Join(err, server.Close())
	case <-ctx.Done():
		return server.Close()
	}
}

func listenAt(address string) (net.Listener, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" {
		return nil, fmt.Errorf("--listen-client-urls: %s: only http is served", address)
	}
	return net.Listen("tcp", u.Host)
}

// storageOf is the storage of the etcd that kube-apiserver was told of.
func storageOf(ctx context.Context, etcd []string) (string, error) {
	if len(etcd) == 0 {
		return "", errors.New("--etcd-servers must be specified")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(etcd[0], "/")+storagePath, nil)
	if err != nil {
		return "", fmt.Errorf("--etcd-servers: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("--etcd-servers: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		const most = 1 << 13
		storage, err := io.ReadAll(io.LimitReader(answer.Body, most))
		return string(storage), err
	}
	if request.URL.Scheme != "http" {
		return "", fmt.Errorf("--etcd-servers: %s: a real etcd is reached by http only", etcd[0])
	}
	hosts := make([]string, len(etcd)) // of a real one
	for i, address := range etcd {
		hosts[i] = strings.TrimSuffix(strings.TrimPrefix(address, "http://"), "/")
	}
	return "etcd://" + strings.Join(hosts, ","), nil
}

// endWithParent ends a command when the process that started this one has ended, so that a suite that is killed leaves no
// server behind.
func endWithParent(cmd *cobra.Command) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		if err := whenOrphaned(cancel); err != nil {
			return err
		}
		cmd.SetContext(ctx)
		return run(cmd, args)
	}
}

// whenOrphaned calls a function when the parent of this process has ended.
func whenOrphaned(tell func()) error {
	parent := os.Getppid()
	if parent == 0 { // it is in another namespace of processes, which ends this one with it
		return nil
	}
	fd, err := unix.PidfdOpen(parent, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("watch the parent process: %w", err)
	}
	if err != nil || os.Getppid() != parent { // it has ended meanwhile
		tell()
		return nil
	}
	guard.Go("parent", func() {
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				tell()
				return
			}
		}
	})
	return nil
}

// become replaces this program by another.
func become(path string, args []string) error { return syscall.Exec(path, args, os.Environ()) }

// flagsOfUpstream are flags of a program that say nothing to its stand-in, by name, and the only value each may have,
// because it is how Skiff always is. Those with anyValue and eitherWay are about something that Skiff does not have.
type flagsOfUpstream map[string]string

const (
	anyValue  = ""
	eitherWay = "true or false"
)

var kubeAPIServerFlags = flagsOfUpstream{
	"allow-privileged": "true", "enable-garbage-collector": "true", "etcd-prefix": "/registry", "storage-backend": "etcd3",
	"enable-priority-and-fairness": "true", "logging-format": "text", "storage-media-type": "application/vnd.kubernetes.protobuf",

	"watch-cache": eitherWay, "watch-cache-sizes": anyValue, "delete-collection-workers": anyValue, "vmodule": anyValue,
	"log-flush-frequency": anyValue, "contention-profiling": eitherWay, "endpoint-reconciler-type": anyValue,
	"etcd-compaction-interval": anyValue, "etcd-count-metric-poll-period": anyValue, "etcd-db-metric-poll-interval": anyValue,
	"etcd-healthcheck-timeout": anyValue, "etcd-readycheck-timeout": anyValue, "lease-reuse-duration-seconds": anyValue,
	"storage-initialization-timeout": anyValue, "livez-grace-period": anyValue, "shutdown-delay-duration": anyValue,
}

var etcdFlags = flagsOfUpstream{
	"advertise-client-urls": anyValue, "listen-peer-urls": anyValue, "initial-advertise-peer-urls": anyValue, "initial-cluster": anyValue, "initial-cluster-state": anyValue,
	"initial-cluster-token": anyValue, "log-level": anyValue, "logger": anyValue, "log-outputs": anyValue, "quota-backend-bytes": anyValue,
	"snapshot-count": anyValue, "heartbeat-interval": anyValue, "election-timeout": anyValue, "auto-compaction-mode": anyValue,
	"auto-compaction-retention": anyValue,
}

// meaningless defines the flags of upstream.
func meaningless(flags *pflag.FlagSet, of flagsOfUpstream) {
	for name, only := range of {
		switch only {
		case anyValue, eitherWay:
			flags.String(name, "", "taken, and without a meaning for Skiff")
		default:
			flags.String(name, only, "Skiff knows no other value")
		}
		if only == "true" || only == eitherWay {
			flags.Lookup(name).NoOptDefVal = "true"
		}
	}
}

// checkMeaningless refuses values that Skiff would have to act on, and says which flags it does not act on.
func checkMeaningless(cmd *cobra.Command, of flagsOfUpstream) error {
	for _, name := range slices.Sorted(maps.Keys(of)) {
		flag := cmd.Flags().Lookup(name)
		switch only := of[name]; {
		case !flag.Changed || flag.Value.String() == only:
		case only == anyValue || only == eitherWay:
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: --%s has no meaning for Skiff\n", cmd.Name(), name)
		default:
			return fmt.Errorf("--%s=%s: for Skiff it is always %s", name, flag.Value, only)
		}
	}
	return nil
}

func refuseFlag(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w (this %s is Skiff, which takes the flags that --help lists)", err, cmd.Name())
}
