package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/kubelet/dra"
	"github.com/skiff-k8s/skiff/kubelet/evict"
	"github.com/skiff-k8s/skiff/kubelet/hooks"
	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/local"
	"github.com/skiff-k8s/skiff/kubelet/logs"
	"github.com/skiff-k8s/skiff/kubelet/node"
	"github.com/skiff-k8s/skiff/kubelet/pods"
	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/resources"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/server"
	"github.com/skiff-k8s/skiff/kubelet/stats"
	"github.com/skiff-k8s/skiff/kubelet/status"
	"github.com/skiff-k8s/skiff/kubelet/sysctl"
	"github.com/skiff-k8s/skiff/kubelet/volume"
)

// Kubelet is one node's agent.
type Kubelet struct {
	cfg      Config
	runtime  *runtime.Client
	events   record.EventBroadcaster
	recorder record.EventRecorder
	node     *node.Manager
	devices  *dra.Manager
	volumes  *volume.Manager
	probes   *probe.Manager
	cgroups  *resources.Cgroups
	puller   *images.Puller
	sysctls  *sysctl.List
	images   *images.Collector
	logs     *logs.Rotator
	evictor  *evict.Manager
	stats    *stats.Provider
	pods     *pods.Manager
	sources  *sources
	server   *server.Server

	logPaths map[string]string // of running containers by id; the Rotator's goroutine alone uses it
}

// New connects to the runtime and puts the kubelet together. Run must follow, which also closes what New
// opened.
func New(ctx context.Context, cfg Config) (*Kubelet, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.RootDir, cfg.LogDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the kubelet's directory: %w", err)
		}
	}
	k := &Kubelet{cfg: cfg}
	if k.sysctls, err = sysctl.NewList(cfg.Guard.AllowedUnsafeSysctls, node.Kernel()); err != nil {
		return nil, err
	}
	if k.cgroups, err = resources.OpenCgroups(cfg.CgroupRoot); err != nil {
		return nil, err
	}
	if cfg.Listener == nil {
		if k.cfg.Listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			return nil, fmt.Errorf("listen for the kubelet's API: %w", err)
		}
	}
	if k.runtime, err = runtime.Dial(ctx, cfg.RuntimeEndpoint, cfg.RootDir); err != nil {
		k.cfg.Listener.Close()
		return nil, err
	}
	k.runtime.Primary = family.Of(cfg.NodeIP)
	k.devices, err = dra.New(dra.Config{Client: cfg.Client, RootDir: cfg.RootDir, NodeName: cfg.NodeName, Changed: func() { k.pods.WakeAll() }})
	if err == nil {
		err = k.openImages(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, k.cfg.Listener.Close(), k.runtime.Close())
	}
	k.assemble(ctx)
	return k, nil
}

// openImages makes the puller, which first looks what became of the pulls that were under way when an
// earlier run ended.
func (k *Kubelet) openImages(ctx context.Context) (err error) {
	k.puller, err = images.NewPuller(k.runtime, filepath.Join(k.cfg.RootDir, "image_manager"), k.cfg.Guard.verification())
	if err != nil {
		return err
	}
	present, err := k.runtime.ListImages(ctx)
	if err != nil {
		slog.Warn("image pulls of an earlier run not looked for", "error", err)
	}
	k.puller.Recover(present)
	return nil
}

// assemble makes the parts and introduces them to each other.
func (k *Kubelet) assemble(ctx context.Context) {
	cfg := k.cfg
	k.events = record.NewBroadcaster()
	k.recorder = k.events.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: cfg.NodeName})
	k.sources = newSources(cfg.Client, cfg.NodeName)

	k.node = node.New(node.Config{
		Client: cfg.Client, Recorder: k.recorder, Runtime: k.runtime,
		Name: cfg.NodeName, IPs: cfg.ips(), Port: listenPort(cfg.Listener),
		Labels: cfg.Labels, Taints: cfg.Taints, Capacity: cfg.Capacity, Reserved: cfg.Reserved,
		MaxPods: cfg.MaxPods, RootDir: cfg.RootDir,
		Pressure:       func() node.Pressure { return k.evictor.Pressure() },
		NetworkChanged: func() { k.pods.WakeAll() },
	})
	k.volumes = volume.New(volume.Config{
		Client: cfg.Client, RootDir: cfg.RootDir, NodeName: cfg.NodeName,
		Allocatable: func() v1.ResourceList { return k.node.Node().Status.Allocatable },
	})
	k.probes = probe.New(probe.Config{Exec: k.runtime.Exec, Event: k.containerEvent})
	k.pods = pods.New(pods.Config{
		Client: cfg.Client, Recorder: k.recorder, Runtime: k.runtime,
		Volumes: k.volumes, Probes: k.probes, Cgroups: k.cgroups, Devices: k.devices, Images: k.puller, Hooks: hooks.New(k.runtime.Exec),
		Node: k.node.Node, Services: k.sources.Services, NetworkReady: k.node.NetworkReady, Policies: cfg.Policies,
		Pressure: func(pod *v1.Pod) *status.Failure { return k.evictor.Refuse(pod) },
		Sysctls:  k.sysctls, RootDir: cfg.RootDir, LogDir: cfg.LogDir, HostIPs: cfg.ips(),
		DNS:       pods.DNS{Servers: cfg.ClusterDNS, Domain: cfg.Domain, ResolvConf: cfg.ResolvConf},
		Resources: resources.Node{Memory: node.Memory(), PageSizes: resources.HugePageSizes(), V2: k.cgroups.V2()},
		AppArmor:  node.HasAppArmor(), RecursiveReadOnly: k.recursiveReadOnly(ctx),
	})
	k.images = &images.Collector{
		Runtime: k.runtime, InUse: k.runtime.ImagesInUse, Disk: k.imageDisk, Listed: k.puller.Prune,
		Failed: func(reason, message string) {
			k.recorder.Event(node.Reference(cfg.NodeName), v1.EventTypeWarning, reason, message)
		},
		High: cfg.ImageHigh, Low: cfg.ImageLow,
	}
	k.logs = &logs.Rotator{
		Running: k.runningLogs, Reopen: k.runtime.ReopenLog,
		MaxSize: cfg.LogMaxSize, MaxFiles: cfg.LogMaxFiles,
	}
	k.stats = stats.New(stats.Config{
		NodeName: cfg.NodeName, RootDir: cfg.RootDir, LogDir: cfg.LogDir, Cgroup: cfg.CgroupRoot,
		Pods: k.pods.Pods, Volume: k.volumes.HostPath,
		Runtime: k.runtime.Service(), Images: k.runtime.ImageService(),
	})
	k.evictor = evict.New(evict.Config{
		RootDir: cfg.RootDir, MinDisk: cfg.MinDisk, Recorder: k.recorder, Node: cfg.NodeName,
		Pods: k.pods.Pods, Evict: k.pods.Evict, Summary: k.stats.Summary,
		FreeImages: k.images.RemoveAll, Changed: k.node.Changed,
	})
	k.server = server.New(server.Config{
		NodeName: cfg.NodeName, Listener: cfg.Listener, Certificate: cfg.Certificate, ClientCA: cfg.ClientCA, Client: cfg.Client,
		Host: k, Runtime: k.runtime, Stats: k.stats, Metrics: append(prometheus.Gatherers{newMetrics(cfg.NodeName, k.pods.Pods)}, cfg.Metrics...), Probes: k.probes.Metrics(),
		Healthy: k.node.Healthy, LogDir: cfg.LogDir, Configz: cfg.published(),
		Volumes: local.In(cfg.VolumesDir, k.volumes.UserOf),
	})
}

// Run runs the kubelet until ctx ends; pods run on. The order matters: pods start when the services are
// known, as their environment names them, and what nobody knows is cleared away when all pods are known.
func (k *Kubelet) Run(ctx context.Context) error {
	defer k.runtime.Close()
	sink := k.events.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: k.cfg.Client.CoreV1().Events("")})
	defer k.events.Shutdown()
	defer sink.Stop()
	k.recorder.Event(node.Reference(k.cfg.NodeName), v1.EventTypeNormal, "Starting", "Starting kubelet.")

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group guard.Group
	run := func(name string, f func(context.Context) error) {
		group.Go(name, func() {
			if err := guard.Call(name, func() error { return f(ctx) }); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	run("kubelet API", k.server.Run)
	run("node", k.node.Run)
	run("limits", k.limitPods)
	run("devices", k.devices.Run)
	run("slices of devices", k.devices.Sweep)
	run("volumes", k.volumes.Run)
	run("pods", k.pods.Run)
	run("images", k.images.Run)
	run("logs", k.logs.Run)
	run("eviction", k.evictor.Run)
	run("sources", func(ctx context.Context) error { return k.sources.run(ctx, k) })
	run("runtime", func(ctx context.Context) error {
		return k.runtime.Watch(ctx, k.pods.Wake, k.node.RuntimeHealthy)
	})
	group.Wait()
	k.probes.Close()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func (k *Kubelet) containerEvent(pod *v1.Pod, container, eventType, reason, message string) {
	k.recorder.Event(pods.Reference(pod, container), eventType, reason, message)
}

func listenPort(l net.Listener) int32 {
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		return int32(a.Port)
	}
	return 10250
}

// recursiveReadOnly says whether the runtime's default handler mounts read-only all the way down.
func (k *Kubelet) recursiveReadOnly(ctx context.Context) bool {
	s, err := k.runtime.Status(ctx)
	if err != nil {
		slog.Warn("container runtime does not tell its features", "error", err)
		return false
	}
	for _, h := range s.RuntimeHandlers {
		if h.Name == "" {
			return h.GetFeatures().GetRecursiveReadOnlyMounts()
		}
	}
	return false
}

// byNode selects what concerns the node.
func byNode(field, name string) string { return fields.OneTermEqualSelector(field, name).String() }
