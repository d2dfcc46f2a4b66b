package pods

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/status"
	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// policyTimeout is how long a pass waits for network policies before it is tried again, as others may have become possible.
const policyTimeout = 10 * time.Second

// outcome is how a step ended.
type outcome int

const (
	proceed outcome = iota // to the next step
	wait                   // for the next look: the rest depends on what is under way
	done                   // nothing is left of the pod
)

// step is one thing that happens to a pod. It may be repeated at any time and does nothing when there is
// nothing left to do.
type step struct {
	name string
	do   func(context.Context, *pass) (outcome, error)
}

// startSteps bring a pod up and keep it up, in this order.
var startSteps = []step{
	{"admit", admit},
	{"check the deadline", checkDeadline},
	{"allocate resources", allocate},
	{"plan", makePlan},
	{"probe containers", probeContainers},
	{"report", reportNow},
	{"stop containers", killPlanned},
	{"begin again", resetContainers},
	{"wait for the network", awaitNetwork},
	{"make directories", makeDirectories},
	{"resize containers", resizeContainers},
	{"make control groups", makeCgroups},
	{"prepare devices", prepareDevices},
	{"mount volumes", mountVolumes},
	{"make the sandbox", makeSandbox},
	{"wait for network policies", awaitPolicies},
	{"start containers", startContainers},
	{"collect old containers", collect},
}

// stopSteps end a pod and clear it away, in this order. A pod that is over but still in the API stays
// after "wait for the status".
var stopSteps = []step{
	{"stop starting", stopStarting},
	{"quiet probes", quietProbes},
	{"report", reportNow},
	{"stop containers", stopContainers},
	{"stop sandboxes", stopSandboxes},
	{"release addresses", releasePolicies},
	{"settle the status", settle},
	{"unmount volumes", unmountVolumes},
	{"give devices back", unprepareDevices},
	{"remove control groups", removeCgroups},
	{"wait for the status", awaitStatus},
	{"delete from the API", deleteFromAPI},
	{"remove containers", removeContainers},
	{"remove logs", removeLogs},
}

// admit takes the pod on or rejects it, once. A pod that runs already was admitted by an earlier kubelet.
func admit(_ context.Context, p *pass) (outcome, error) {
	w, m := p.w, p.m
	if w.admitted {
		return proceed, nil
	}
	m.admission.Lock()
	defer m.admission.Unlock()
	if len(p.rt.Sandboxes) == 0 && len(p.rt.Containers) == 0 {
		if refusal := m.refuse(p.pod); refusal != nil {
			m.event(p.pod, "", v1.EventTypeWarning, refusal.Reason, refusal.Message)
			w.mu.Lock()
			w.status = status.Rejected(p.pod, refusal.Reason, refusal.Message, time.Now())
			w.over = true
			m.status.Set(p.pod, w.status)
			w.mu.Unlock()
			w.poke()
			return wait, nil
		}
	}
	w.mu.Lock()
	w.admitted = true
	w.mu.Unlock()
	return proceed, nil
}

// checkDeadline fails a pod that was active longer than it may.
func checkDeadline(_ context.Context, p *pass) (outcome, error) {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	limit, started := p.pod.Spec.ActiveDeadlineSeconds, w.status.StartTime
	if limit == nil || started == nil {
		return proceed, nil
	}
	left := time.Until(started.Add(time.Duration(*limit) * time.Second))
	if left > 0 {
		p.soon(left)
		return proceed, nil
	}
	w.failure = &status.Failure{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	p.m.event(p.pod, "", v1.EventTypeNormal, "DeadlineExceeded", w.failure.Message)
	w.poke()
	return wait, nil
}

func makePlan(_ context.Context, p *pass) (outcome, error) {
	w := p.w
	w.mu.Lock()
	facts := Facts{Failed: w.failed, Started: p.started, Replace: w.replace}
	p.plan = MakePlan(p.pod, p.rt, facts)
	w.mu.Unlock()
	if p.plan.Finished && w.starting == nil {
		w.over = true
		w.poke()
		return wait, nil
	}
	return proceed, nil
}

// reportNow has the status written before anything that takes time.
func reportNow(_ context.Context, p *pass) (outcome, error) {
	p.w.report(p)
	return proceed, nil
}

// resetContainers takes all containers away, without grace, as one of them asked for.
func resetContainers(ctx context.Context, p *pass) (outcome, error) {
	w := p.w
	if len(p.plan.Reset) == 0 {
		return proceed, nil
	}
	if next, err := stopStarting(ctx, p); next != proceed || err != nil {
		return next, err
	}
	for _, c := range p.plan.Reset {
		p.m.cfg.Probes.Stop(c.ID)
		if (c.State == runtime.Running || c.State == runtime.Unknown) && w.killing[c.ID] == nil {
			w.kill(ctx, p.pod, podIP(p), victim{container: c, spec: specOf(p.pod, &c), message: "Stopping container " + c.Name})
		}
	}
	if len(w.killing) > 0 {
		return wait, nil
	}
	for _, c := range p.plan.Reset {
		if err := p.m.cfg.Runtime.RemoveContainer(ctx, c.ID); err != nil {
			return wait, fmt.Errorf("remove container %s: %w", c.Name, err)
		}
		w.forgive(c.Name)
	}
	w.poke() // to look at what is left, which is nothing
	return wait, nil
}

func awaitNetwork(_ context.Context, p *pass) (outcome, error) {
	if p.pod.Spec.HostNetwork || !p.plan.Sandbox {
		return proceed, nil
	}
	if err := p.m.cfg.NetworkReady(); err != nil {
		message := "network is not ready: " + err.Error()
		p.m.event(p.pod, "", v1.EventTypeWarning, "NetworkNotReady", message)
		return wait, fmt.Errorf("%s", message)
	}
	return proceed, nil
}

func makeDirectories(_ context.Context, p *pass) (outcome, error) {
	for _, dir := range []string{p.m.podDir(p.pod), p.m.logDir(p.pod)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			p.m.event(p.pod, "", v1.EventTypeWarning, "Failed", fmt.Sprintf("error making pod data directories: %v", err))
			return wait, err
		}
	}
	return proceed, nil
}

func makeCgroups(_ context.Context, p *pass) (outcome, error) {
	if err := p.m.cfg.Cgroups.EnsurePod(p.pod); err != nil {
		p.m.event(p.pod, "", v1.EventTypeWarning, "FailedCreatePodContainer", fmt.Sprintf("unable to ensure pod container exists: %v", err))
		return wait, err
	}
	return proceed, nil
}

// prepareDevices has drivers make ready the devices of the pod's claims.
func prepareDevices(ctx context.Context, p *pass) (outcome, error) {
	if err := p.m.cfg.Devices.Prepare(ctx, p.pod); err != nil {
		if ctx.Err() == nil {
			p.m.event(p.pod, "", v1.EventTypeWarning, "FailedPrepareDynamicResources", fmt.Sprintf("Failed to prepare dynamic resources: %v", err))
		}
		return wait, err
	}
	return proceed, nil
}

func mountVolumes(ctx context.Context, p *pass) (outcome, error) {
	if err := p.m.cfg.Volumes.Mount(ctx, p.pod); err != nil {
		if ctx.Err() == nil {
			p.m.event(p.pod, "", v1.EventTypeWarning, "FailedMount", err.Error())
		}
		return wait, err
	}
	return proceed, nil
}

// makeSandbox replaces a sandbox that is no good. Its containers are down by now.
func makeSandbox(ctx context.Context, p *pass) (outcome, error) {
	if !p.plan.Sandbox || p.w.starting != nil {
		return proceed, nil
	}
	if len(p.rt.Sandboxes) > 0 {
		p.m.event(p.pod, "", v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
		for _, s := range p.rt.Sandboxes {
			if err := p.m.cfg.Runtime.StopSandbox(ctx, s.ID); err != nil {
				return wait, fmt.Errorf("stop the old sandbox: %w", err)
			}
		}
	}
	if err := p.m.createSandbox(ctx, p.pod, p.plan.Attempt); err != nil {
		if ctx.Err() == nil {
			p.m.event(p.pod, "", v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+runtime.Message(err))
		}
		return wait, err
	}
	p.w.poke() // to look at it
	return wait, nil
}

// awaitPolicies keeps containers from running before network policies are in force for the addresses of their sandbox.
func awaitPolicies(ctx context.Context, p *pass) (outcome, error) {
	sandbox := p.rt.ReadySandbox()
	if p.m.cfg.Policies == nil || p.pod.Spec.HostNetwork || sandbox == nil || len(p.plan.Start) == 0 || p.w.starting != nil {
		return proceed, nil
	}
	addresses := make([]netip.Addr, 0, len(sandbox.IPs))
	for _, ip := range sandbox.IPs {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return wait, fmt.Errorf("address of the sandbox: %w", err)
		}
		addresses = append(addresses, addr)
	}
	ctx, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	if err := p.m.cfg.Policies.Admit(ctx, p.pod, addresses); err != nil {
		p.m.event(p.pod, "", v1.EventTypeWarning, "NetworkNotReady", err.Error())
		return wait, err
	}
	return proceed, nil
}

// releasePolicies gives up the addresses of sandboxes that are stopped.
func releasePolicies(_ context.Context, p *pass) (outcome, error) {
	if p.m.cfg.Policies != nil {
		p.m.cfg.Policies.Release(p.w.uid)
	}
	return proceed, nil
}

// probeContainers has the containers that run probed, and no others.
func probeContainers(_ context.Context, p *pass) (outcome, error) {
	w := p.w
	w.mu.Lock()
	hidden := w.visible(p.rt)
	w.mu.Unlock()
	ip := podIP(p)
	running := map[string]bool{}
	for _, c := range hidden.Containers {
		spec := findContainer(&p.pod.Spec, c.Name)
		if c.State != runtime.Running || spec == nil || w.killing[c.ID] != nil {
			continue
		}
		running[c.ID] = true
		p.m.cfg.Probes.Start(p.pod, spec, c.ID, ip, c.StartedAt)
	}
	for id := range w.probing {
		if !running[id] {
			p.m.cfg.Probes.Stop(id)
		}
	}
	w.probing = running
	return proceed, nil
}

// stopStarting calls off pulls, hooks and starts.
func stopStarting(_ context.Context, p *pass) (outcome, error) {
	if p.w.starting == nil {
		return proceed, nil
	}
	p.w.starting.stop()
	p.w.starting = nil
	p.w.poke() // what it made is not in this pass
	return wait, nil
}

func quietProbes(_ context.Context, p *pass) (outcome, error) {
	p.m.cfg.Probes.Terminating(p.pod.UID)
	return proceed, nil
}

func stopContainers(ctx context.Context, p *pass) (outcome, error) {
	next, err := killAll(ctx, p, true)
	if next == proceed && err == nil {
		p.m.cfg.Probes.StopPod(p.pod.UID)
	}
	return next, err
}

func stopSandboxes(ctx context.Context, p *pass) (outcome, error) {
	for _, s := range p.rt.Sandboxes {
		if !s.Ready && p.w.cleared {
			continue
		}
		if err := p.m.cfg.Runtime.StopSandbox(ctx, s.ID); err != nil {
			p.m.event(p.pod, "", v1.EventTypeWarning, "FailedKillPod", "error killing pod: "+runtime.Message(err))
			return wait, err
		}
	}
	return proceed, nil
}

// settle makes the status final: nothing runs and nothing will.
func settle(_ context.Context, p *pass) (outcome, error) {
	p.w.settled = true
	p.w.report(p)
	return proceed, nil
}

func unmountVolumes(ctx context.Context, p *pass) (outcome, error) {
	if p.w.cleared {
		return proceed, nil
	}
	if err := p.m.cfg.Volumes.Unmount(ctx, p.pod.UID); err != nil {
		return wait, err
	}
	return proceed, nil
}

func unprepareDevices(ctx context.Context, p *pass) (outcome, error) {
	if p.w.cleared {
		return proceed, nil
	}
	if err := p.m.cfg.Devices.Unprepare(ctx, p.pod.UID); err != nil {
		return wait, err
	}
	return proceed, nil
}

func removeCgroups(_ context.Context, p *pass) (outcome, error) {
	if p.w.cleared {
		return proceed, nil
	}
	if err := p.m.cfg.Cgroups.RemovePod(p.pod.UID); err != nil {
		return wait, err
	}
	p.w.cleared = true
	return proceed, nil
}

// awaitStatus keeps a pod in the API until its final status is there.
func awaitStatus(_ context.Context, p *pass) (outcome, error) {
	if p.gone {
		return proceed, nil
	}
	if !p.m.status.Settled(p.pod.UID) || p.pod.DeletionTimestamp == nil {
		return wait, nil // the Writer or the API wakes the worker
	}
	return proceed, nil
}

// deleteFromAPI ends the pod's deletion, which waited for the node to be done with it. Finalizers of
// others may keep the object still; then the API tells when it is gone.
func deleteFromAPI(ctx context.Context, p *pass) (outcome, error) {
	if p.gone {
		return proceed, nil
	}
	if p.w.deleted {
		p.soon(10 * time.Second)
		return wait, nil
	}
	err := p.m.cfg.Client.CoreV1().Pods(p.pod.Namespace).Delete(ctx, p.pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0),
		Preconditions:      metav1.NewUIDPreconditions(string(p.pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return wait, fmt.Errorf("delete the pod: %w", err)
	}
	p.w.deleted = true
	if err != nil {
		p.w.lose()
	}
	return wait, nil
}

func removeContainers(ctx context.Context, p *pass) (outcome, error) {
	for _, c := range p.rt.Containers {
		if err := p.m.cfg.Runtime.RemoveContainer(ctx, c.ID); err != nil {
			return wait, err
		}
	}
	for _, s := range p.rt.Sandboxes {
		if err := p.m.cfg.Runtime.RemoveSandbox(ctx, s.ID); err != nil {
			return wait, err
		}
	}
	return proceed, nil
}

func removeLogs(ctx context.Context, p *pass) (outcome, error) {
	if p.pod.Name != "" {
		if err := untrusted.Remove(ctx, p.m.logDir(p.pod)); err != nil {
			return wait, err
		}
	}
	p.m.cfg.Images.Forget(p.pod.UID)
	p.m.status.Forget(p.pod.UID)
	slog.Debug("pod cleared away", "pod", p.pod.Namespace+"/"+p.pod.Name)
	return done, nil
}
