// Package rig runs an API server, and programs that are its clients, as processes that are measured.
package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skiff-k8s/skiff/cluster"
)

const (
	issuer       = "https://kubernetes.default.svc.cluster.local"
	serviceRange = "10.96.0.0/16"
	advertised   = "192.0.2.1" // an address of documentation (RFC 5737)
	// readyTime is how long an API server may take until it answers.
	readyTime = 2 * time.Minute
)

// Rig is one API server with its clients. Its programs end with it.
type Rig struct {
	// Client is the administrator's.
	Client *kubernetes.Clientset
	// Admin is the kubeconfig that it uses.
	Admin string

	dir      string
	pki      *cluster.PKI
	url      string
	programs []*exec.Cmd
}

// Skiff starts Skiff's API server, the program at a path, in a folder of its own, with its objects in storage.
func Skiff(ctx context.Context, dir, program, storage string) (*Rig, error) {
	return start(ctx, dir, func(r *Rig, port string, f files) error {
		return r.Start("apiserver", program, "apiserver", "--storage", storage, "--listen", "127.0.0.1:"+port, "--advertise-address", advertised,
			"--tls-cert-file", f.cert, "--tls-private-key-file", f.key, "--client-ca-file", f.ca,
			"--service-cluster-ip-range", serviceRange, "--service-account-issuer", issuer, "--service-account-signing-key-file", f.tokenKey)
	})
}

// Kubernetes starts kube-apiserver with an etcd, programs of the folder tools, in a folder of its own.
func Kubernetes(ctx context.Context, dir, tools string) (*Rig, error) {
	return start(ctx, dir, func(r *Rig, port string, f files) error {
		clients, err := Port()
		if err != nil {
			return err
		}
		peers, err := Port()
		if err != nil {
			return err
		}
		etcd, peer := "http://127.0.0.1:"+clients, "http://127.0.0.1:"+peers
		if err := r.Start("etcd", filepath.Join(tools, "etcd"), "--data-dir", filepath.Join(dir, "etcd"), "--log-level", "warn",
			"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", "default="+peer); err != nil {
			return err
		}
		return r.Start("kube-apiserver", filepath.Join(tools, "kube-apiserver"), "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", port,
			"--advertise-address", advertised, "--cert-dir", dir, "--tls-cert-file", f.cert, "--tls-private-key-file", f.key, "--client-ca-file", f.ca,
			"--authorization-mode", "Node,RBAC", "--allow-privileged", "--service-cluster-ip-range", serviceRange,
			"--service-account-issuer", issuer, "--service-account-key-file", f.tokenKey, "--service-account-signing-key-file", f.tokenKey)
	})
}

// StartUpstream starts one of Kubernetes' own components as a client of the server. Its limits of requests are lifted.
func (r *Rig) StartUpstream(tools, name, kubeconfig string, args ...string) error {
	port, err := Port()
	if err != nil {
		return err
	}
	return r.Start(name, filepath.Join(tools, name), append([]string{"--kubeconfig", kubeconfig, "--leader-elect=false",
		"--kube-api-qps=100000", "--kube-api-burst=100000", "--bind-address=127.0.0.1", "--secure-port=" + port, "--cert-dir=" + r.dir}, args...)...)
}

// files are the certificates and keys of an API server.
type files struct{ cert, key, ca, tokenKey string }

func start(ctx context.Context, dir string, server func(r *Rig, port string, f files) error) (_ *Rig, err error) {
	r := &Rig{dir: dir}
	if r.pki, err = cluster.OpenPKI(r.pkiDir()); err != nil {
		return nil, err
	}
	if _, err := r.pki.Server("server", "kubernetes", "127.0.0.1"); err != nil {
		return nil, err
	}
	if _, err := r.pki.Key("tokens"); err != nil {
		return nil, err
	}
	port, err := Port()
	if err != nil {
		return nil, err
	}
	r.url = "https://127.0.0.1:" + port
	defer func() {
		if err != nil {
			r.Stop()
		}
	}()
	f := files{ca: r.CA(), tokenKey: r.TokenKey()}
	f.cert, f.key = r.pki.Files("server")
	if err := server(r, port, f); err != nil {
		return nil, err
	}
	if r.Admin, err = r.Kubeconfig("admin", "admin", "system:masters"); err != nil {
		return nil, err
	}
	config, err := Config(r.Admin)
	if err != nil {
		return nil, err
	}
	if r.Client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	return r, r.ready(ctx)
}

func (r *Rig) pkiDir() string { return filepath.Join(r.dir, "pki") }

// CA is the file with the authority of all certificates.
func (r *Rig) CA() string { return filepath.Join(r.pkiDir(), "ca.crt") }

// TokenKey is the file with the key of service account tokens.
func (r *Rig) TokenKey() string { return filepath.Join(r.pkiDir(), "tokens.key") }

// Config is a client's of which nobody limits the rate.
func Config(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	return config, nil
}

// Kubeconfig is the file of a new kubeconfig of a user.
func (r *Rig) Kubeconfig(name, user string, groups ...string) (string, error) {
	if _, err := r.pki.Client(name, user, groups...); err != nil {
		return "", err
	}
	cert, key := r.pki.Files(name)
	file := filepath.Join(r.dir, name+".kubeconfig")
	return file, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"it": {Server: r.url, CertificateAuthority: r.CA()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificate: cert, ClientKey: key}},
		Contexts:       map[string]*clientcmdapi.Context{"it": {Cluster: "it", AuthInfo: user}},
		CurrentContext: "it",
	}, file)
}

// Start starts a program; what it says is in the rig's folder.
func (r *Rig) Start(name, program string, args ...string) error {
	log, err := os.Create(filepath.Join(r.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// An interrupt from the terminal is for the one who stops the rig.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	r.programs = append(r.programs, cmd)
	return nil
}

// Stop ends the programs, last started first.
func (r *Rig) Stop() {
	for i := len(r.programs) - 1; i >= 0; i-- {
		p := r.programs[i]
		_ = p.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait()
		timer.Stop()
	}
	r.programs = nil
}

// ready waits until the server has made its first objects.
func (r *Rig) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		var last error
		for _, path := range []string{"/readyz", "/api/v1/namespaces/default", "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical"} {
			if last = r.Client.RESTClient().Get().AbsPath(path).Do(ctx).Error(); last != nil {
				break
			}
		}
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server does not become ready (logs are in %s): %w", r.dir, errors.Join(ctx.Err(), last))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Usage is what programs have used so far of processors, and hold of memory.
type Usage struct {
	CPU      time.Duration
	Resident int
}

// Usage is that of all programs of the rig.
func (r *Rig) Usage() (sum Usage, err error) {
	for _, p := range r.programs {
		u, err := UsageOf(p.Process.Pid)
		if err != nil {
			return Usage{}, err
		}
		sum.CPU += u.CPU
		sum.Resident += u.Resident
	}
	return sum, nil
}

// UsageOf is that of one process.
func UsageOf(pid int) (Usage, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return Usage{}, err
	}
	stat, err := proc.Stat()
	if err != nil {
		return Usage{}, fmt.Errorf("what a program uses: %w", err)
	}
	return Usage{CPU: time.Duration(stat.CPUTime() * float64(time.Second)), Resident: stat.ResidentMemory()}, nil
}

// Port is a port of the loopback that is free now.
func Port() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}
