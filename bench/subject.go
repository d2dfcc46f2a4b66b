package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
)

// subject is one server that is measured: all of its programs together.
type subject struct {
	name     string
	address  string // host:port of the API
	commands [][]string
	dir      string // the programs' logs and data
	data     string // folder of what they store
	durable  bool
	metrics  []string // of its programs besides the API server, without credentials
	running  []*exec.Cmd
}

// advertised is an address of documentation (RFC 5737): kube-apiserver refuses
// loopback addresses.
const advertised = "192.0.2.1"

// newSubjects describes what is compared, the real one first.
func newSubjects(s settings, dir string, k keys) ([]*subject, error) {
	etcd, err := freeAddress()
	if err != nil {
		return nil, err
	}
	peer, err := freeAddress()
	if err != nil {
		return nil, err
	}
	real, err := newSubject(dir, "kube-apiserver, etcd", true)
	if err != nil {
		return nil, err
	}
	real.commands = [][]string{
		{filepath.Join(s.tools, "etcd"), "--data-dir", real.data, "--log-level", "warn",
			"--listen-client-urls", "http://" + etcd, "--advertise-client-urls", "http://" + etcd,
			"--listen-peer-urls", "http://" + peer, "--initial-advertise-peer-urls", "http://" + peer, "--initial-cluster", "default=http://" + peer},
		real.kubeAPIServer(s, k, "http://"+etcd),
	}
	real.metrics = []string{"http://" + etcd}
	skiff, err := newSubject(dir, "Skiff, file://", true)
	if err != nil {
		return nil, err
	}
	skiff.commands = [][]string{skiff.skiffAPIServer(s, k, "file://"+filepath.Join(skiff.data, "skiff.db"))}
	return []*subject{real, skiff}, nil
}

// kubeAPIServer is the command of a kube-apiserver on an etcd, or what answers
// as one.
func (s *subject) kubeAPIServer(set settings, k keys, etcd string) []string {
	host, port, _ := net.SplitHostPort(s.address) // freeAddress has joined them
	return append([]string{filepath.Join(set.tools, "kube-apiserver"), "--etcd-servers", etcd, "--secure-port", port, "--bind-address", host,
		"--cert-dir", s.dir, "--service-account-key-file", k.tokens, "--authorization-mode", "Node,RBAC", "--allow-privileged"}, k.flags()...)
}

// skiffAPIServer is the command of Skiff on a storage.
func (s *subject) skiffAPIServer(set settings, k keys, storage string) []string {
	return append([]string{set.skiff, "apiserver", "--storage", storage, "--listen", s.address}, k.flags()...)
}

// flags are those that all servers understand.
func (k keys) flags() []string {
	return []string{
		"--advertise-address", advertised, "--tls-cert-file", k.cert, "--tls-private-key-file", k.key, "--client-ca-file", k.ca,
		"--service-cluster-ip-range", "10.96.0.0/16", "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file", k.tokens,
	}
}

func newSubject(dir, name string, durable bool) (*subject, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if dir, err = os.MkdirTemp(dir, "server-"); err != nil {
		return nil, err
	}
	s := &subject{name: name, address: address, durable: durable, dir: dir, data: filepath.Join(dir, "data")}
	return s, os.Mkdir(s.data, 0o700) // etcd warns of other modes
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start starts all programs at once and returns how long it took until the API
// says that it is ready.
func (s *subject) start(ctx context.Context, client kubernetes.Interface) (time.Duration, error) {
	began := time.Now()
	for _, c := range s.commands {
		if err := s.startProgram(c); err != nil {
			return 0, err
		}
	}
	for {
		answer, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil && string(answer) == "ok" {
			return time.Since(began), nil
		}
		if time.Since(began) > time.Minute {
			return 0, fmt.Errorf("does not become ready: %s: %w", answer, err)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

func (s *subject) startProgram(command []string) error {
	log, err := os.OpenFile(filepath.Join(s.dir, filepath.Base(command[0])+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	// An interrupt from the terminal is for bench, which stops them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	s.running = append(s.running, cmd)
	return nil
}

// stop ends the programs, last started first.
func (s *subject) stop() {
	for i := len(s.running) - 1; i >= 0; i-- {
		p := s.running[i]
		_ = p.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait()
		timer.Stop()
	}
	s.running = nil
}

// lastWords are the ends of the programs' logs.
func (s *subject) lastWords() string {
	var words strings.Builder
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, name := range logs {
		log, _ := os.ReadFile(name)
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		fmt.Fprintf(&words, "\n%s ends with\n%s", filepath.Base(name), strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	return words.String()
}

// memory is the sum of a field of /proc/PID/status over the programs, in bytes:
// VmRSS for what they hold now, VmHWM for the most they ever held, both with the
// pages of programs and databases that are mapped; RssAnon for now without.
func (s *subject) memory(field string) (int64, error) {
	var sum int64
	for _, p := range s.running {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		if err != nil {
			return 0, err
		}
		_, after, found := strings.Cut(string(status), "\n"+field+":")
		kib, _, _ := strings.Cut(strings.TrimSpace(after), " ")
		n, err := strconv.ParseInt(kib, 10, 64)
		if !found || err != nil {
			return 0, fmt.Errorf("%s of %s is unknown", field, p.Path)
		}
		sum += n << 10
	}
	return sum, nil
}

// cpu is the time that the programs have spent on processors, for themselves
// and in the kernel.
func (s *subject) cpu() (time.Duration, error) {
	var pids []int
	for _, p := range s.running {
		pids = append(pids, p.Process.Pid)
	}
	return processorTime(pids, false)
}

// processorTime is the time that processes have spent on processors; with what
// their children spent that have ended, if ended is true. Of processes that are
// gone meanwhile their parent tells.
func processorTime(pids []int, ended bool) (sum time.Duration, err error) {
	// utime, stime, cutime and cstime are the 14th to 17th field of a process
	// (proc(5)), in hundredths of a second (USER_HZ), or the 12th to 15th after the
	// name, which may hold spaces and is in parentheses.
	first, last := 11, 13
	if ended {
		last = 15
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if ended && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		for _, field := range strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[first:last] {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum, nil
}

// disk is the space that the stored data takes: blocks, not lengths of files,
// as etcd reserves space in advance.
func (s *subject) disk() (int64, error) {
	var sum int64
	err := filepath.WalkDir(s.data, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	return sum, err
}
