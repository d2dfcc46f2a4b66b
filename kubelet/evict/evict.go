// Package evict ends pods before the node runs out of memory or disk, and pods that use more local
// storage than they may. The thresholds are upstream's hard ones, unless Config says otherwise: less than
// 100 MiB of memory, 10 % of the node's file system or 5 % of its inodes left.
package evict

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	resourcehelper "k8s.io/component-helpers/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/node"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

const (
	lookEvery = 10 * time.Second
	// settleTime is how long a pressure is reported after it was last seen, so that it does not flap.
	settleTime = 5 * time.Minute

	minMemory = 100 << 20 // bytes
	minInodes = 5         // percent

	// grace of an evicted pod: it is urgent.
	grace = time.Second
)

// Config is what a Manager needs.
type Config struct {
	Node     string
	RootDir  string // whose file system is watched
	MinDisk  int64  // bytes to keep free there; 0 is a tenth of it
	Recorder record.EventRecorder
	Pods     func() []*v1.Pod // with their status
	Evict    func(types.UID, status.Failure, time.Duration) bool
	Summary  func(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error)
	// FreeImages removes unused images, tried before a pod is evicted for the disk's sake.
	FreeImages func(ctx context.Context, now time.Time) error
	// Changed is called when a pressure comes or goes.
	Changed func()
}

// Manager watches the node. It is safe for concurrent use.
type Manager struct {
	cfg Config

	mu   sync.Mutex
	seen map[signal]time.Time // when a pressure was last there
}

// New makes a Manager.
func New(cfg Config) *Manager { return &Manager{cfg: cfg, seen: map[signal]time.Time{}} }

// signal is a resource that can run out.
type signal string

const (
	memory signal = "memory"
	disk   signal = "ephemeral-storage"
	inodes signal = "inodes"
)

// shortage is a signal below its threshold.
type shortage struct {
	signal               signal
	threshold, available resource.Quantity
}

// Pressure is what the node is short of, or was minutes ago.
func (m *Manager) Pressure() node.Pressure {
	m.mu.Lock()
	defer m.mu.Unlock()
	recent := func(s signal) bool { return time.Since(m.seen[s]) < settleTime }
	return node.Pressure{Memory: recent(memory), Disk: recent(disk) || recent(inodes)}
}

// Refuse says why a node under pressure does not take a pod, nil if it does.
func (m *Manager) Refuse(pod *v1.Pod) *status.Failure {
	return refuse(pod, m.Pressure())
}

func refuse(pod *v1.Pod, p node.Pressure) *status.Failure {
	if !p.Memory && !p.Disk || critical(pod) {
		return nil
	}
	if p.Memory && !p.Disk {
		bestEffort := pod.Status.QOSClass == v1.PodQOSBestEffort
		tolerates := slices.ContainsFunc(pod.Spec.Tolerations, func(t v1.Toleration) bool {
			return (t.Key == v1.TaintNodeMemoryPressure || t.Key == "" && t.Operator == v1.TolerationOpExists) &&
				(t.Effect == "" || t.Effect == v1.TaintEffectNoSchedule)
		})
		if !bestEffort || tolerates {
			return nil
		}
	}
	var conditions []string
	if p.Memory {
		conditions = append(conditions, string(v1.NodeMemoryPressure))
	}
	if p.Disk {
		conditions = append(conditions, string(v1.NodeDiskPressure))
	}
	return &status.Failure{Reason: "Evicted", Message: fmt.Sprintf("The node had condition: %v. ", conditions)}
}

// critical says that the cluster cannot do without the pod.
func critical(pod *v1.Pod) bool {
	const systemCritical = 2_000_000_000
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical
}

// Run watches until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
		if err := m.look(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("eviction", "error", err)
		}
	}
}

// look evicts at most one pod for the node's sake, and every pod that exceeds its own limits.
func (m *Manager) look(ctx context.Context) error {
	short, err := m.shortages()
	if err != nil {
		return err
	}
	m.note(short)
	pods := slices.DeleteFunc(m.cfg.Pods(), func(p *v1.Pod) bool { return status.Terminal(p.Status.Phase) || p.DeletionTimestamp != nil })
	limited := slices.ContainsFunc(pods, limitsStorage)
	if len(short) == 0 && !limited {
		return nil
	}
	summary, err := m.cfg.Summary(ctx, false)
	if err != nil {
		return fmt.Errorf("measure the pods: %w", err)
	}
	usage := byUID(summary)
	greedy := false
	for _, pod := range pods {
		if message := exceeds(pod, usage[pod.UID]); message != "" {
			greedy = m.evict(pod, message) || greedy
		}
	}
	if greedy || len(short) == 0 {
		return nil // what they leave may be enough
	}
	worst := short[0]
	if worst.signal != memory {
		if err := m.cfg.FreeImages(ctx, time.Now()); err != nil {
			return err
		}
		if again, err := m.shortages(); err != nil || !slices.ContainsFunc(again, func(s shortage) bool { return s.signal == worst.signal }) {
			return err
		}
	}
	for _, pod := range Rank(pods, usage, worst.signal == memory) {
		if !critical(pod) && m.evict(pod, lowMessage(worst)) {
			return nil
		}
	}
	return nil
}

func lowMessage(s shortage) string {
	return fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", s.signal, s.threshold.String(), s.available.String())
}

func (m *Manager) evict(pod *v1.Pod, message string) bool {
	slog.Warn("evicting pod", "pod", pod.Namespace+"/"+pod.Name, "reason", message)
	evicted := m.cfg.Evict(pod.UID, status.Failure{
		Reason: "Evicted", Message: message,
		Condition: &v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue,
			Reason: v1.PodReasonTerminationByKubelet, Message: message,
		},
	}, grace)
	if evicted {
		m.cfg.Recorder.Event(pod, v1.EventTypeWarning, "Evicted", message)
	}
	return evicted
}

// note keeps when each pressure was last there.
func (m *Manager) note(short []shortage) {
	before := m.Pressure()
	m.mu.Lock()
	for _, s := range short {
		m.seen[s.signal] = time.Now()
	}
	m.mu.Unlock()
	if m.Pressure() != before {
		m.cfg.Changed()
	}
}

// shortages measures the node; memory comes first, as it is the most urgent.
func (m *Manager) shortages() ([]shortage, error) {
	var short []shortage
	if free := node.AvailableMemory(); free > 0 && free < minMemory {
		short = append(short, shortage{memory, *bytes(minMemory), *bytes(free)})
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(m.cfg.RootDir, &fs); err != nil {
		return nil, fmt.Errorf("measure %s: %w", m.cfg.RootDir, err)
	}
	size, free := int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
	if least := cmp.Or(m.cfg.MinDisk, size/10); free < least {
		short = append(short, shortage{disk, *bytes(least), *bytes(free)})
	}
	// Some file systems have no fixed number of inodes.
	if least := int64(fs.Files) * minInodes / 100; fs.Files > 0 && int64(fs.Ffree) < least {
		short = append(short, shortage{inodes, *bytes(least), *bytes(int64(fs.Ffree))})
	}
	return short, nil
}

func bytes(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

func byUID(s *statsapi.Summary) map[types.UID]statsapi.PodStats {
	all := make(map[types.UID]statsapi.PodStats, len(s.Pods))
	for _, p := range s.Pods {
		all[types.UID(p.PodRef.UID)] = p
	}
	return all
}

// Rank orders pods by who is to go first: who uses more than requested, then the lowest priority, then
// who uses most beyond its request. It is pure.
func Rank(pods []*v1.Pod, usage map[types.UID]statsapi.PodStats, byMemory bool) []*v1.Pod {
	excess := func(p *v1.Pod) int64 {
		requests := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
		u := usage[p.UID]
		if byMemory {
			return memoryUse(u) - requests.Memory().Value()
		}
		return diskUse(u) - requests.StorageEphemeral().Value()
	}
	ranked := slices.Clone(pods)
	slices.SortStableFunc(ranked, func(a, b *v1.Pod) int {
		ea, eb := excess(a), excess(b)
		return cmp.Or(
			compareBool(eb > 0, ea > 0),
			cmp.Compare(priority(a), priority(b)),
			cmp.Compare(eb, ea),
		)
	})
	return ranked
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

func priority(p *v1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

func memoryUse(u statsapi.PodStats) int64 {
	if u.Memory == nil || u.Memory.WorkingSetBytes == nil {
		return 0
	}
	return int64(*u.Memory.WorkingSetBytes)
}

func diskUse(u statsapi.PodStats) int64 {
	if u.EphemeralStorage == nil {
		return 0
	}
	return used(u.EphemeralStorage)
}

func used(fs *statsapi.FsStats) int64 {
	if fs == nil || fs.UsedBytes == nil {
		return 0
	}
	return int64(*fs.UsedBytes)
}

// limitsStorage says that the pod has limits of local storage to watch.
func limitsStorage(pod *v1.Pod) bool {
	if len(limits(pod)) > 0 {
		return true
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil })
}

// limits are the containers' limits of ephemeral storage by container.
func limits(pod *v1.Pod) map[string]resource.Quantity {
	all := map[string]resource.Quantity{}
	for _, c := range pod.Spec.Containers {
		if q, found := c.Resources.Limits[v1.ResourceEphemeralStorage]; found {
			all[c.Name] = q
		}
	}
	return all
}

// exceeds says which of its limits of local storage the pod exceeds, "" if none.
func exceeds(pod *v1.Pod, u statsapi.PodStats) string {
	for _, v := range pod.Spec.Volumes {
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		for _, s := range u.VolumeStats {
			if s.Name == v.Name && used(&s.FsStats) > v.EmptyDir.SizeLimit.Value() {
				return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
			}
		}
	}
	all := limits(pod)
	if len(all) == len(pod.Spec.Containers) {
		total := resource.Quantity{Format: resource.BinarySI}
		for _, q := range all {
			total.Add(q)
		}
		if diskUse(u) > total.Value() {
			return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", total.String())
		}
	}
	var over []string
	for _, c := range u.Containers {
		if limit, found := all[c.Name]; found && used(c.Rootfs)+used(c.Logs) > limit.Value() {
			over = append(over, fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String()))
		}
	}
	return strings.Join(over, "")
}
