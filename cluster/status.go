package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// record is what a run notes of itself in the data directory, for others to read.
type record struct {
	PID     int
	Since   time.Time
	Storage string // without names and passwords
	Proxy   string // the mode of the service proxy; empty without nodes
}

func (c Config) recordFile() string { return filepath.Join(c.DataDir, "run.json") }

func (r *run) record() error {
	data, err := json.Marshal(record{PID: os.Getpid(), Since: r.begun.UTC(), Storage: withoutSecrets(r.Storage), Proxy: r.ProxyMode})
	if err != nil {
		return err
	}
	return atomicfile.Write(r.recordFile(), data, 0o644)
}

// withoutSecrets is the part of a storage URL that says where the storage is.
func withoutSecrets(storage string) string {
	u, err := url.Parse(storage)
	if err != nil {
		scheme, _, _ := strings.Cut(storage, ":")
		return scheme + "://…"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// errNotRunning is the cause when no cluster runs with a data directory.
var errNotRunning = errors.New("no cluster is running")

// isRunning reports whether a process holds the lock of the data directory.
func (c Config) isRunning() (bool, error) {
	file, err := os.Open(filepath.Join(c.DataDir, "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// Status writes how the cluster of a data directory is. It is an error if none runs.
func Status(ctx context.Context, c Config, out io.Writer) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	running, err := c.isRunning()
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("%w with the data directory %s", errNotRunning, c.DataDir)
	}
	lines := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer lines.Flush()
	var run record
	data, err := os.ReadFile(c.recordFile())
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("the cluster is starting")
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &run); err != nil {
		return fmt.Errorf("%s: %w", c.recordFile(), err)
	}
	fmt.Fprintf(lines, "cluster\tup since %s (%v), process %d\n", run.Since.Local().Format(time.DateTime), time.Since(run.Since).Round(time.Second), run.PID)
	fmt.Fprintf(lines, "storage\t%s\n", run.Storage)
	if run.Proxy != "" {
		fmt.Fprintf(lines, "Services\tby %s\n", run.Proxy)
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.adminKubeconfig())
	if err != nil {
		return err
	}
	config.Timeout = 10 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	found, err := ask(ctx, client)
	if err != nil {
		return fmt.Errorf("the API at %s does not answer: %w", config.Host, err)
	}
	fmt.Fprintf(lines, "API\t%s, %s\n", config.Host, found.version)
	found.write(lines)
	return nil
}

// answers are what the API says of the cluster.
type answers struct {
	version string
	parts   []corev1.ComponentStatus
	nodes   []corev1.Node
	pods    []corev1.Pod
}

func ask(ctx context.Context, client kubernetes.Interface) (answers, error) {
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return answers{}, err
	}
	parts, err := client.CoreV1().ComponentStatuses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return answers{}, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return answers{}, err
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return answers{}, err
	}
	return answers{version.GitVersion, parts.Items, nodes.Items, pods.Items}, nil
}

func (a answers) write(out io.Writer) {
	for i, part := range a.parts {
		fmt.Fprintf(out, "%s\t%s %s\n", heading("parts", i), part.Name, health(part))
	}
	for i, n := range a.nodes {
		pods := 0
		for _, pod := range a.pods {
			if pod.Spec.NodeName == n.Name && pod.Status.Phase == corev1.PodRunning {
				pods++
			}
		}
		fmt.Fprintf(out, "%s\t%s %s, kubelet %s, %s, %d pods running\n", heading("nodes", i), n.Name, readiness(n), n.Status.NodeInfo.KubeletVersion, n.Status.NodeInfo.ContainerRuntimeVersion, pods)
	}
	warnings := a.warnings()
	for i, warning := range warnings {
		fmt.Fprintf(out, "%s\t%s\n", heading("warnings", i), warning)
	}
	if len(warnings) == 0 {
		fmt.Fprintf(out, "warnings\tnone\n")
	}
}

// heading stands before the first of several lines.
func heading(text string, i int) string {
	if i > 0 {
		return ""
	}
	return text
}

func health(part corev1.ComponentStatus) string {
	for _, c := range part.Conditions {
		if c.Type == corev1.ComponentHealthy && c.Status != corev1.ConditionTrue {
			return "unhealthy: " + strings.TrimSpace(c.Message+" "+c.Error)
		}
	}
	return "ok"
}

func readiness(n corev1.Node) string {
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	switch {
	case i < 0 || n.Status.Conditions[i].Status == corev1.ConditionUnknown:
		return "does not report"
	case n.Status.Conditions[i].Status != corev1.ConditionTrue:
		return "NotReady: " + n.Status.Conditions[i].Message
	}
	return "Ready"
}

// warnings are what should be looked at.
func (a answers) warnings() []string {
	var all []string
	for _, part := range a.parts {
		if text := health(part); text != "ok" {
			all = append(all, part.Name+" is "+text)
		}
	}
	for _, n := range a.nodes {
		if text := readiness(n); text != "Ready" {
			all = append(all, n.Name+" "+text)
		}
		for _, c := range n.Status.Conditions {
			if c.Type != corev1.NodeReady && c.Status == corev1.ConditionTrue {
				all = append(all, fmt.Sprintf("%s has %s: %s", n.Name, c.Type, c.Message))
			}
		}
		if n.Spec.Unschedulable {
			all = append(all, n.Name+" takes no pods: it is cordoned")
		}
	}
	for _, pod := range a.pods {
		for _, s := range pod.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && strings.HasSuffix(w.Reason, "BackOff") {
				all = append(all, fmt.Sprintf("pod %s/%s: container %s waits: %s", pod.Namespace, pod.Name, s.Name, w.Reason))
			}
		}
	}
	return all
}
