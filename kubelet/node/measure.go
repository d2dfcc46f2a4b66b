package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// measure fills our part of the node's status and leaves the rest.
func (m *Manager) measure(ctx context.Context, n *v1.Node) {
	runtime, err := m.cfg.Runtime.Status(ctx)
	s := &n.Status
	s.Addresses = m.addresses()
	s.DaemonEndpoints.KubeletEndpoint.Port = m.cfg.Port
	s.NodeInfo = m.info()
	m.setResources(s)
	m.setFeatures(s, runtime)
	s.DeclaredFeatures = declaredFeatures
	if images, err := m.images(ctx); err == nil {
		s.Images = images
	}
	m.setConditions(s, m.unready(runtime, err))
}

// declaredFeatures are those of upstream's optional features that pods and the API server have to ask for and
// that this kubelet has (KEP-5328), sorted.
var declaredFeatures = []string{
	"InPlacePodLevelResourcesVerticalScaling",
	"InPlacePodVerticalScalingInitContainers",
	"RestartAllContainersOnContainerExits",
}

func (m *Manager) addresses() []v1.NodeAddress {
	var list []v1.NodeAddress
	for _, ip := range m.cfg.IPs {
		list = append(list, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	return append(list, v1.NodeAddress{Type: v1.NodeHostName, Address: m.cfg.Name})
}

// Kernel is the version of the running kernel, "" if that does not tell.
func Kernel() string {
	var uname unix.Utsname
	if unix.Uname(&uname) != nil {
		return ""
	}
	return unix.ByteSliceToString(uname.Release[:])
}

func (m *Manager) info() v1.NodeSystemInfo {
	info := v1.NodeSystemInfo{
		MachineID:               line("/etc/machine-id"),
		SystemUUID:              line("/sys/class/dmi/id/product_uuid"),
		BootID:                  line("/proc/sys/kernel/random/boot_id"),
		KernelVersion:           Kernel(),
		OSImage:                 osImage(),
		ContainerRuntimeVersion: m.cfg.Runtime.RuntimeVersion(),
		KubeletVersion:          Version,
		OperatingSystem:         goruntime.GOOS,
		Architecture:            goruntime.GOARCH,
	}
	if info.SystemUUID == "" {
		info.SystemUUID = info.MachineID
	}
	if swap := meminfo("SwapTotal"); swap > 0 {
		info.Swap = &v1.NodeSwapStatus{Capacity: &swap}
	}
	return info
}

// line is the one line of a file, "" if there is no such file.
func line(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func osImage() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for l := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); found {
			return strings.Trim(value, `"`)
		}
	}
	return "Linux"
}

// meminfo is a field of /proc/meminfo in bytes, 0 if it is not there.
func meminfo(field string) int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		parts := strings.Fields(lines.Text())
		if len(parts) >= 2 && parts[0] == field+":" {
			kib, _ := strconv.ParseInt(parts[1], 10, 64)
			return kib * 1024
		}
	}
	return 0
}

// setResources measures capacity and allocatable; names of others in them stay.
func (m *Manager) setResources(s *v1.NodeStatus) {
	if s.Capacity == nil {
		s.Capacity = v1.ResourceList{}
	}
	if s.Allocatable == nil {
		s.Allocatable = v1.ResourceList{}
	}
	for name, q := range m.capacity() {
		s.Capacity[name] = q
		left := q.DeepCopy()
		if reserved, found := m.reserved(name, q); found {
			left.Sub(reserved)
			if left.Sign() < 0 {
				left = resource.Quantity{Format: q.Format}
			}
		}
		s.Allocatable[name] = left
	}
}

func (m *Manager) capacity() v1.ResourceList {
	all := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(meminfo("MemTotal"), resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(m.cfg.MaxPods, resource.DecimalSI),
	}
	var disk unix.Statfs_t
	if unix.Statfs(m.cfg.RootDir, &disk) == nil {
		bytes := int64(disk.Blocks) * disk.Bsize
		all[v1.ResourceEphemeralStorage] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	for size, pages := range hugepages() {
		all[v1.ResourceName(v1.ResourceHugePagesPrefix+resource.NewQuantity(size, resource.BinarySI).String())] =
			*resource.NewQuantity(size*pages, resource.BinarySI)
	}
	for name, q := range m.cfg.Capacity {
		all[name] = q
	}
	return all
}

// reserved is what of a resource pods may not request: what the configuration reserves, and what
// eviction keeps free.
func (m *Manager) reserved(name v1.ResourceName, capacity resource.Quantity) (resource.Quantity, bool) {
	reserved, found := m.cfg.Reserved[name]
	reserved = reserved.DeepCopy()
	switch name {
	case v1.ResourceMemory:
		reserved.Add(resource.MustParse("100Mi"))
		return reserved, true
	case v1.ResourceEphemeralStorage:
		reserved.Add(*resource.NewQuantity(capacity.Value()/10, resource.BinarySI))
		return reserved, true
	}
	return reserved, found
}

// hugepages is the number of pages by their size in bytes.
func hugepages() map[int64]int64 {
	found := map[int64]int64{}
	dirs, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, dir := range dirs {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB")
		kib, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			continue
		}
		pages, _ := strconv.ParseInt(line(filepath.Join(dir, "nr_hugepages")), 10, 64)
		found[kib*1024] = pages
	}
	return found
}

func (m *Manager) setFeatures(s *v1.NodeStatus, runtime *cri.StatusResponse) {
	if runtime == nil {
		return
	}
	s.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: ptr.To(runtime.GetFeatures().GetSupplementalGroupsPolicy())}
	s.RuntimeHandlers = nil
	for _, h := range runtime.RuntimeHandlers {
		s.RuntimeHandlers = append(s.RuntimeHandlers, v1.NodeRuntimeHandler{
			Name: h.Name,
			Features: &v1.NodeRuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: ptr.To(h.GetFeatures().GetRecursiveReadOnlyMounts()),
				UserNamespaces:          ptr.To(false),
			},
		})
	}
	slices.SortFunc(s.RuntimeHandlers, func(a, b v1.NodeRuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
}

// images are the largest images of the node, as the scheduler wants to know them.
func (m *Manager) images(ctx context.Context) ([]v1.ContainerImage, error) {
	const most, mostNames = 50, 5
	list, err := m.cfg.Runtime.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b *cri.Image) int {
		if a.Size != b.Size {
			return int(int64(b.Size) - int64(a.Size))
		}
		return strings.Compare(a.Id, b.Id)
	})
	var images []v1.ContainerImage
	for _, image := range list[:min(len(list), most)] {
		names := append(slices.Clone(image.RepoDigests), image.RepoTags...)
		images = append(images, v1.ContainerImage{Names: names[:min(len(names), mostNames)], SizeBytes: int64(image.Size)})
	}
	return images, nil
}

// unready is why the node cannot run pods, nil if it can. A runtime that does not answer is given time.
func (m *Manager) unready(runtime *cri.StatusResponse, err error) error {
	m.RuntimeHealthy(err)
	if err := m.Healthy(); err != nil {
		return m.setNetwork(err, err)
	}
	if err != nil {
		return nil
	}
	var problems []error
	var network error
	seen := map[string]bool{}
	for _, c := range runtime.GetStatus().GetConditions() {
		seen[c.Type] = true
		if c.Status {
			continue
		}
		detail := fmt.Sprintf("%s=%v reason:%s message:%s", c.Type, c.Status, c.Reason, c.Message)
		switch c.Type {
		case "RuntimeReady":
			problems = append(problems, errors.New("container runtime not ready: "+detail))
		case "NetworkReady":
			network = errors.New("container runtime network not ready: " + detail)
			problems = append(problems, network)
		}
	}
	if !seen["RuntimeReady"] || !seen["NetworkReady"] {
		problems = append(problems, errors.New("container runtime status is incomplete"))
	}
	return m.setNetwork(network, join(problems))
}

// setNetwork keeps the network's state for pods that wait for it, and passes problem on.
func (m *Manager) setNetwork(network, problem error) error {
	m.mu.Lock()
	came := network == nil && m.network != nil
	m.network = network
	m.mu.Unlock()
	if came && m.cfg.NetworkChanged != nil {
		m.cfg.NetworkChanged()
	}
	return problem
}

// join writes several problems as the API's users know it: in brackets, separated by commas.
func join(problems []error) error {
	if len(problems) < 2 {
		return errors.Join(problems...)
	}
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Error()
	}
	return errors.New("[" + strings.Join(texts, ", ") + "]")
}

func (m *Manager) setConditions(s *v1.NodeStatus, unready error) {
	var p Pressure
	if m.cfg.Pressure != nil {
		p = m.cfg.Pressure()
	}
	pressure := func(t v1.NodeConditionType, on bool, onReason, onMessage, offReason, offMessage string) {
		c := v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: offReason, Message: offMessage}
		if on {
			c.Status, c.Reason, c.Message = v1.ConditionTrue, onReason, onMessage
		}
		setCondition(s, c)
	}
	pressure(v1.NodeMemoryPressure, p.Memory,
		"KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	pressure(v1.NodeDiskPressure, p.Disk,
		"KubeletHasDiskPressure", "kubelet has disk pressure",
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	pressure(v1.NodePIDPressure, p.PIDs,
		"KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available")

	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if unready != nil {
		ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "KubeletNotReady", unready.Error()
	}
	setCondition(s, ready)
}

// setCondition replaces the condition of the same type, whose transition time stays if its status does.
func setCondition(s *v1.NodeStatus, c v1.NodeCondition) {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	for i := range s.Conditions {
		if old := &s.Conditions[i]; old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// Memory is the machine's memory in bytes.
func Memory() int64 { return meminfo("MemTotal") }

// HasAppArmor says whether the kernel enforces AppArmor profiles.
func HasAppArmor() bool { return line("/sys/module/apparmor/parameters/enabled") == "Y" }

// Healthy is nil while the runtime answers.
func (m *Manager) Healthy() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.answered.IsZero():
		return errors.New("container runtime status check may not have completed yet")
	case time.Since(m.answered) > downAfter:
		return errors.New("container runtime is down")
	}
	return nil
}

// AvailableMemory is how much memory can still be had without swapping, in bytes, 0 if unknown.
func AvailableMemory() int64 { return meminfo("MemAvailable") }
