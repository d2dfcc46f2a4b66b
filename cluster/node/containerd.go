package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/atomicfile"
)

const (
	// PauseImage is the sandbox image, made on the spot; the name is the one
	// Kubernetes 1.36 uses, so that pods which run it as a container find it.
	PauseImage = "registry.k8s.io/pause:3.10.2"

	runtimeStartTimeout = 30 * time.Second
)

var containerdConfig = template.Must(template.New("containerd").Parse(`version = 3
root = '{{.Dir}}/containerd'
state = '{{.Dir}}/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']

[grpc]
  address = '{{.Dir}}/run/containerd.sock'

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  max_concurrent_downloads = 3
  image_pull_progress_timeout = '1m0s'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{{.Pause}}'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '{{.Dir}}/certs.d'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = {{.RestrictOOM}}
  disable_apparmor = {{.DisableAppArmor}}
  netns_mounts_under_state_dir = true
  tolerate_missing_hugetlb_controller = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{{.Tools}}/cni']
    conf_dir = '{{.Dir}}/cni/conf'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
`))

// containerd is a running container runtime.
type containerd struct {
	child
	config Config
}

// startContainerd starts the node's runtime, taking the place of one that an
// earlier run left behind; containers belong to their shims and run on.
func startContainerd(ctx context.Context, c Config, log *slog.Logger) (*containerd, error) {
	if err := writeContainerdConfig(c); err != nil {
		return nil, err
	}
	if err := killContainerd(c); err != nil {
		return nil, err
	}
	r := &containerd{config: c, child: child{
		path: filepath.Join(c.Tools, "containerd"), args: []string{"--config", c.configFile()},
		env:     []string{"PATH=" + c.Tools + ":" + os.Getenv("PATH")},
		logFile: filepath.Join(c.Dir, "containerd.log"), log: log,
	}}
	if err := r.start(); err != nil {
		return nil, err
	}
	if err := r.waitReady(ctx); err != nil {
		_ = r.cmd.Process.Kill()
		return nil, err
	}
	return r, nil
}

func writeContainerdConfig(c Config) error {
	restrict, err := lacksCapability(capSysResource)
	if err != nil {
		return err
	}
	_, err = os.Stat("/sys/kernel/security/apparmor")
	var out bytes.Buffer
	if err := containerdConfig.Execute(&out, map[string]any{
		"Dir": c.Dir, "Tools": c.Tools, "Pause": PauseImage,
		"RestrictOOM": restrict, "DisableAppArmor": err != nil,
	}); err != nil {
		return err
	}
	if err := writeMirror(c); err != nil {
		return err
	}
	return atomicfile.Write(c.configFile(), out.Bytes(), 0o644)
}

// writeMirror makes every pull go to c.Mirror first, or removes what an earlier
// run wrote.
func writeMirror(c Config) error {
	dir := filepath.Join(c.Dir, "certs.d", "_default")
	if c.Mirror == "" {
		return os.RemoveAll(dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	hosts := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", c.Mirror, c.Mirror)
	return atomicfile.Write(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644)
}

func (c Config) configFile() string { return filepath.Join(c.Dir, "containerd.toml") }

// waitReady returns when the runtime answers the CRI.
func (r *containerd) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeStartTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+r.config.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	for {
		if _, err := os.Stat(r.config.socket()); err == nil {
			if _, err := client.Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err == nil {
				return nil
			}
		}
		select {
		case err := <-r.exited:
			return fmt.Errorf("containerd ended at once (%w); its last words: %s", err, r.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("containerd did not answer within %v: %s", runtimeStartTimeout, r.lastWords())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ctr runs containerd's own client on the images and containers that the CRI
// uses, and returns what it prints.
func ctr(ctx context.Context, c Config, args ...string) (string, error) {
	return ctrWith(ctx, c, nil, args...)
}

// ctrWith is ctr with something to read; nil: nothing.
func ctrWith(ctx context.Context, c Config, in io.Reader, args ...string) (string, error) {
	args = append([]string{"--address", c.socket(), "--namespace", "k8s.io"}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(c.Tools, "ctr"), args...)
	var failure bytes.Buffer
	cmd.Stdin, cmd.Stderr = in, &failure
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", strings.Join(args[4:], " "), err, bytes.TrimSpace(failure.Bytes()))
	}
	return string(out), nil
}

// capSysResource is CAP_SYS_RESOURCE of capabilities(7): without it a process
// cannot lower oom_score_adj, and no sandbox would start.
const capSysResource = 24

func lacksCapability(bit uint) (bool, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return mask&(1<<bit) == 0, err
		}
	}
	return false, fmt.Errorf("/proc/self/status has no CapEff line")
}
