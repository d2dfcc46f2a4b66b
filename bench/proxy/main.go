// Program proxy measures service proxies one after the other, Skiff's in each mode and kube-proxy in each of its own: how long a
// fresh node takes until Services answer, how long a new one takes, and how much memory the proxy holds. All of it happens in a
// network namespace that ends with the program.
//
//	go run ./bench/proxy -skiff bin/skiff [-kube-proxy PROGRAM] [-services 10000] [-endpoints 5] [-changes 20]
//
// A Service answers when a connection to its address reaches a listener of this program, which is the endpoint that counts. The
// other endpoints are addresses of pods that do not exist.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
)

type config struct {
	inside    bool
	skiff     string
	kubeProxy string
	services  int
	endpoints int
	changes   int
	only      string
}

func main() {
	var c config
	flag.BoolVar(&c.inside, "inside", false, "this process is in the namespace already")
	flag.StringVar(&c.skiff, "skiff", "bin/skiff", "the program skiff")
	flag.StringVar(&c.kubeProxy, "kube-proxy", "", "the program kube-proxy; none: it is left out")
	flag.IntVar(&c.services, "services", 10000, "how many Services there are")
	flag.IntVar(&c.endpoints, "endpoints", 5, "how many endpoints each has; one has 250")
	flag.IntVar(&c.changes, "changes", 20, "how many Services are made, one after the other")
	flag.StringVar(&c.only, "only", "", "measure those contenders alone whose names have this in them")
	flag.Parse()
	run := c.measure
	if !c.inside {
		run = enter
	}
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

// enter runs this program in a network namespace of its own.
func enter() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"-inside"}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// contender is a proxy in one of its modes.
type contender struct {
	name    string
	command []string
	clean   []string // takes away what it made
}

func (c config) contenders(kubeconfig string) (list []contender) {
	for _, mode := range []string{"nftables", "iptables"} {
		list = append(list, contender{
			"skiff " + mode,
			[]string{c.skiff, "proxy", "--kubeconfig", kubeconfig, "--proxy-mode", mode, "--hostname-override", "n", "--healthz-bind-address", ""},
			[]string{c.skiff, "proxy", "--cleanup"},
		})
	}
	for _, mode := range []string{"nftables", "iptables"} {
		if c.kubeProxy != "" {
			list = append(list, contender{
				"kube-proxy " + mode,
				[]string{
					c.kubeProxy, "--kubeconfig", kubeconfig, "--proxy-mode", mode, "--hostname-override", "n", "--cluster-cidr", "10.244.0.0/16",
					"--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0",
					"--healthz-bind-address", "127.0.0.1:10256", "--metrics-bind-address", "127.0.0.1:10249",
				},
				[]string{c.kubeProxy, "--cleanup"},
			})
		}
	}
	return slices.DeleteFunc(list, func(p contender) bool { return !strings.Contains(p.name, c.only) })
}

// listener is the address of the endpoint that counts.
const listener = "192.0.2.1:8080"

// measure is all that happens in the namespace.
func (c config) measure() error {
	for _, command := range []string{"link set lo up", "address add 192.0.2.1/32 dev lo", "route add default dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, out)
		}
	}
	dir, err := os.MkdirTemp("", "skiff-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("tcp", listener)
	if err != nil {
		return err
	}
	defer l.Close()
	go answer(l)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	client, err := startAPI(ctx, kubeconfig)
	if err != nil {
		return err
	}
	if err := c.fill(ctx, client); err != nil {
		return err
	}
	fmt.Printf("%d Services with %d endpoints each, and one with 250\n\n", c.services, c.endpoints)
	fmt.Println("| proxy | all Services answer after | a new Service answers after, median | longest | memory (resident) at rest | of that, pages of files | at most |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, p := range c.contenders(kubeconfig) {
		if err := c.contend(ctx, client, p, dir); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func answer(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

// patience is how long a proxy may take for anything.
const patience = 10 * time.Minute

// contend measures one.
func (c config) contend(ctx context.Context, client kubernetes.Interface, p contender, dir string) error {
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(p.command[0], p.command[1:]...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = exec.Command(p.clean[0], p.clean[1:]...).Run()
	}()
	// The first and the last that were made, and one between.
	for _, i := range []int{0, c.services / 2, c.services - 1} {
		if err := reach(clusterIP(i)); err != nil {
			said, _ := os.ReadFile(output.Name())
			return fmt.Errorf("%w; it says: %.2000s", err, said)
		}
	}
	all := time.Since(begun)
	var changes []time.Duration
	for i := range c.changes {
		number := c.services + 1 + i
		made := time.Now()
		if err := makeService(ctx, client, number, 1); err != nil {
			return err
		}
		if err := reach(clusterIP(number)); err != nil {
			return err
		}
		changes = append(changes, time.Since(made))
		time.Sleep(200 * time.Millisecond) // it is a lone change
	}
	for i := range c.changes {
		if err := deleteService(ctx, client, c.services+1+i); err != nil {
			return err
		}
	}
	slices.Sort(changes)
	time.Sleep(calm)
	memory := held(cmd.Process.Pid)
	fmt.Printf("| %s | %v | %v | %v | %d MB | %d MB | %d MB |\n", p.name, all.Round(time.Millisecond),
		changes[len(changes)/2].Round(time.Millisecond/10), changes[len(changes)-1].Round(time.Millisecond/10),
		memory["VmRSS"]>>10, memory["RssFile"]>>10, memory["VmHWM"]>>10)
	return nil
}

// reach returns when a connection to an address reaches the listener.
func reach(ip string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, "80"), 3*time.Millisecond)
		if err == nil {
			conn.Close()
			return nil
		}
	}
	return fmt.Errorf("%s does not answer", ip)
}

// calm is how long a proxy has nothing to do before its memory is measured. Skiff gives back what a load left after 10
// seconds at the earliest, the runtime of Go by and by.
const calm = 30 * time.Second

// held is what a process has in memory, in KB, by the names of proc(5).
func held(pid int) map[string]int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // 0 says that it is not known
	memory := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) >= 2 {
			memory[strings.TrimSuffix(words[0], ":")], _ = strconv.Atoi(words[1]) // others are no numbers
		}
	}
	return memory
}
