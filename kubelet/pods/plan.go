package pods

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// Plan is what is to be done for a pod that should run.
type Plan struct {
	// Sandbox is set when the pod needs a new sandbox, with this attempt number. What still runs must be
	// stopped first.
	Sandbox bool
	Attempt uint32
	// Start are the containers to start, in this order.
	Start []*v1.Container
	// Kill are the containers to stop although the pod goes on.
	Kill []Kill
	// Reset are all runs of the pod's containers, to be stopped and then removed in this order, so that the
	// pod begins again in its sandbox.
	Reset []runtime.Container
	// Finished is set when nothing is left to run: the pod is over.
	Finished bool
}

// Kill is one container to be stopped, and why.
type Kill struct {
	Container runtime.Container
	Spec      *v1.Container
	Message   string
	Probe     probe.Kind // whose failure it is, "" if none
	Replace   bool       // it is to be started again, whatever the restart policy
}

// Facts are what a plan depends on beside the pod and the runtime's state.
type Facts struct {
	// Failed are the containers, by id, whose liveness or startup probe failed.
	Failed map[string]probe.Kind
	// Started says that a running container passed its startup probe or has none.
	Started func(containerID string) bool
	// Replace are the containers, by id, that were stopped in order to be started again.
	Replace map[string]bool
}

// MakePlan decides what to do next. It is pure; it is called again after every change.
func MakePlan(pod *v1.Pod, rt *runtime.Pod, facts Facts) Plan {
	p := planner{pod: pod, rt: rt, Facts: facts}
	if stale, attempt := sandboxStale(pod, rt); stale {
		p.anew(attempt)
		return p.Plan
	}
	p.sandbox = rt.Sandboxes[0].ID
	p.ephemeral()
	if p.reset(); len(p.Reset) > 0 {
		return p.Plan
	}
	if p.init() {
		p.main()
	}
	return p.Plan
}

type planner struct {
	Plan
	Facts
	pod     *v1.Pod
	rt      *runtime.Pod
	sandbox string
}

// sandboxStale says whether the pod has no sandbox it can use, and the number of the next one.
func sandboxStale(pod *v1.Pod, rt *runtime.Pod) (bool, uint32) {
	if len(rt.Sandboxes) == 0 {
		return true, 0
	}
	newest := rt.Sandboxes[0]
	good := newest.Ready && newest.HostNetwork == pod.Spec.HostNetwork && (newest.HostNetwork || len(newest.IPs) > 0)
	return !good, newest.Attempt + 1
}

// anew plans for a pod without a sandbox: from the beginning, unless there is nothing to begin.
func (p *planner) anew(attempt uint32) {
	ran := attempt != 0 && len(p.rt.Containers) > 0
	if ran && !restartsOnFailure(&p.pod.Spec) {
		p.Finished = true
		return
	}
	var start []*v1.Container
	begun := false
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		latest := p.rt.Latest(c.Name)
		begun = begun || latest != nil
		done := latest != nil && latest.State == runtime.Exited && latest.ExitCode == 0 && !status.Restartable(&p.pod.Spec, c, 0)
		if !done {
			start = append(start, c)
		}
	}
	if len(start) == 0 && begun {
		p.Finished = true
		return
	}
	p.Sandbox, p.Attempt = true, attempt
	p.Start = start
	if inits := p.pod.Spec.InitContainers; len(inits) > 0 {
		p.Start = []*v1.Container{&inits[0]}
	}
}

// restartsOnFailure says that some container of the pod may be started a second time.
func restartsOnFailure(spec *v1.PodSpec) bool {
	return spec.RestartPolicy != v1.RestartPolicyNever || slices.ContainsFunc(spec.Containers, func(c v1.Container) bool {
		return c.RestartPolicy != nil && *c.RestartPolicy != v1.ContainerRestartPolicyNever
	})
}

// ephemeral containers start once, whatever else happens.
func (p *planner) ephemeral() {
	for i := range p.pod.Spec.EphemeralContainers {
		c := (*v1.Container)(&p.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if p.rt.Latest(c.Name) == nil {
			p.Start = append(p.Start, c)
		}
	}
}

// reset plans the removal of all containers if one of them ended in a way that asks for it. Those that
// did are removed last: they are what a kubelet that takes over goes by.
func (p *planner) reset() {
	var all, causes []runtime.Container
	for _, c := range allContainers(&p.pod.Spec) {
		for _, r := range p.rt.Containers {
			switch {
			case r.Name != c.Name:
			case r.State == runtime.Exited && status.RestartsAll(c, r.ExitCode):
				causes = append(causes, r)
			default:
				all = append(all, r)
			}
		}
	}
	if len(causes) > 0 {
		p.Reset = append(all, causes...)
	}
}

// current is the container's newest run if it is of the present sandbox: runs of earlier ones say
// nothing about how far this one is initialized.
func (p *planner) current(name string) *runtime.Container {
	if r := p.rt.Latest(name); r != nil && r.SandboxID == p.sandbox {
		return r
	}
	return nil
}

// init plans the init containers and says whether they have all done their part. It looks from the last
// one backwards, because the runs of those before it may have been collected.
func (p *planner) init() bool {
	inits := p.pod.Spec.InitContainers
	initialized := len(inits) == 0 || p.mainRuns()
	passed := initialized // whether the containers from here backwards have had their turn
	var start []*v1.Container
	for i := len(inits) - 1; i >= 0; i-- {
		c := &inits[i]
		sidecar := status.IsSidecar(c)
		r := p.current(c.Name)
		if r == nil {
			if passed && sidecar {
				start = append(start, c)
			}
			continue
		}
		if passed && !sidecar {
			continue
		}
		done := false
		switch {
		case r.State == runtime.Running && sidecar:
			if replaced := p.replaceSidecar(c, r); replaced {
				start = append(start, c)
			} else {
				done = p.Started(r.ID)
			}
		case r.State == runtime.Running:
		case r.State == runtime.Exited && !sidecar && r.ExitCode == 0 && !p.Replace[r.ID]:
			done = true
		case sidecar || p.Replace[r.ID] || status.WillRestart(&p.pod.Spec, c, r):
			start = append(start, c)
		default:
			p.Finished = true
			p.Start = nil
			return false
		}
		if done && !passed {
			if i == len(inits)-1 {
				initialized = true
			} else {
				start = append(start, &inits[i+1])
			}
		}
		passed = true
	}
	if !passed {
		start = append(start, &inits[0])
	}
	slices.Reverse(start)
	p.Start = append(p.Start, start...)
	return initialized
}

// replaceSidecar kills a running sidecar that must be started anew, and says so.
func (p *planner) replaceSidecar(c *v1.Container, r *runtime.Container) bool {
	k := Kill{Container: *r, Spec: c, Replace: true, Probe: p.Failed[r.ID]}
	switch {
	case k.Probe == probe.Startup:
		k.Message = fmt.Sprintf("Init container %s failed startup probe", c.Name)
	case r.Hash != runtime.Hash(c):
		k.Message = fmt.Sprintf("Init container %s definition changed", c.Name)
	case k.Probe == probe.Liveness && p.Started(r.ID):
		k.Message = fmt.Sprintf("Init container %s failed liveness probe", c.Name)
	default:
		return false
	}
	p.Kill = append(p.Kill, k)
	return true
}

// mainRuns says that a main container lives in the present sandbox, which proves it initialized.
func (p *planner) mainRuns() bool {
	return slices.ContainsFunc(p.pod.Spec.Containers, func(c v1.Container) bool {
		r := p.current(c.Name)
		return r != nil && (r.State == runtime.Running || r.State == runtime.Created)
	})
}

// main plans the main containers of an initialized pod. When none of them runs or will, the pod is over.
func (p *planner) main() {
	alive := 0
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		r := p.rt.Latest(c.Name)
		if r == nil || r.State != runtime.Running {
			if r != nil && p.Replace[r.ID] || status.WillRestart(&p.pod.Spec, c, r) {
				p.Start = append(p.Start, c)
				alive++
			}
			continue
		}
		kill := p.mainKill(c, r)
		if kill == nil {
			alive++
			continue
		}
		if kill.Replace {
			kill.Message += ", will be restarted"
			p.Start = append(p.Start, c)
			alive++
		}
		p.Kill = append(p.Kill, *kill)
	}
	if alive == 0 {
		p.Plan = Plan{Finished: true}
	}
}

// mainKill is why a running main container must stop, or nil.
func (p *planner) mainKill(c *v1.Container, r *runtime.Container) *Kill {
	k := &Kill{Container: *r, Spec: c, Probe: p.Failed[r.ID]}
	policy := string(p.pod.Spec.RestartPolicy)
	if c.RestartPolicy != nil {
		policy = string(*c.RestartPolicy)
	}
	k.Replace = policy != string(v1.RestartPolicyNever)
	switch {
	case r.Hash != runtime.Hash(c):
		k.Message = fmt.Sprintf("Container %s definition changed", c.Name)
		k.Replace, k.Probe = true, ""
	case k.Probe == probe.Liveness:
		k.Message = fmt.Sprintf("Container %s failed liveness probe", c.Name)
	case k.Probe == probe.Startup:
		k.Message = fmt.Sprintf("Container %s failed startup probe", c.Name)
	default:
		return nil
	}
	return k
}
