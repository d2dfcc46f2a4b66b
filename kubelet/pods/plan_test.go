package pods

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

func c(name string) v1.Container { return v1.Container{Name: name, Image: "image"} }

func side(name string) v1.Container {
	s := c(name)
	s.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	return s
}

// r is a run of a container in the present sandbox, with the container's name as id.
func r(name string, state runtime.State, code int32) runtime.Container {
	spec := c(name)
	return runtime.Container{ID: name, Name: name, SandboxID: "now", State: state, ExitCode: code, Hash: runtime.Hash(&spec)}
}

func up(name string) runtime.Container    { return r(name, runtime.Running, 0) }
func done0(name string) runtime.Container { return r(name, runtime.Exited, 0) }
func fail1(name string) runtime.Container { return r(name, runtime.Exited, 1) }

// restartAll is a container whose exit code 42 has all containers start again.
func restartAll(name string) v1.Container {
	a := c(name)
	a.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
	a.RestartPolicyRules = []v1.ContainerRestartRule{{
		Action:    v1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}
	return a
}

func before(run runtime.Container) runtime.Container {
	run.SandboxID = "before"
	return run
}

func other(run runtime.Container) runtime.Container {
	run.Hash = "other"
	return run
}

// TestMakePlan describes plans as "+sandbox", "start a b", "kill a: message", "reset a b", "finished".
func TestMakePlan(t *testing.T) {
	const always, onFailure, never = v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever
	ready := []runtime.Sandbox{{ID: "now", Ready: true, IPs: []string{"10.0.0.1"}}}
	dead := []runtime.Sandbox{{ID: "before", Attempt: 4}}
	ab := []v1.Container{c("a"), c("b")}
	inits := []v1.Container{c("i1"), side("s"), c("i2")}
	for _, test := range []struct {
		name      string
		policy    v1.RestartPolicy
		mains     []v1.Container // a and b if nil
		inits     []v1.Container
		ephemeral string
		sandboxes []runtime.Sandbox
		runs      []runtime.Container
		failed    map[string]probe.Kind
		starting  string // container whose startup probe has not succeeded
		replace   string // container stopped to be replaced
		want      string
	}{
		{name: "new pod", policy: always, want: "+sandbox start a b"},
		{name: "new pod with init containers", policy: always, inits: inits, want: "+sandbox start i1"},
		{name: "sandbox ready", policy: always, sandboxes: ready, want: "start a b"},
		{name: "all run", policy: always, sandboxes: ready, runs: []runtime.Container{up("a"), up("b")}, want: ""},
		{name: "one crashed", policy: always, sandboxes: ready, runs: []runtime.Container{up("a"), fail1("b")}, want: "start b"},
		{name: "one crashed, never restarted", policy: never, sandboxes: ready, runs: []runtime.Container{up("a"), fail1("b")}, want: ""},
		{name: "succeeded, restarted on failure", policy: onFailure, sandboxes: ready, runs: []runtime.Container{fail1("a"), done0("b")}, want: "start a"},
		{name: "all succeeded on failure", policy: onFailure, sandboxes: ready, runs: []runtime.Container{done0("a"), done0("b")}, want: "finished"},
		{name: "all ended, never restarted", policy: never, sandboxes: ready, runs: []runtime.Container{fail1("a"), done0("b")}, want: "finished"},
		{name: "created but not started", policy: never, sandboxes: ready, runs: []runtime.Container{r("a", runtime.Created, 0), up("b")}, want: "start a"},
		{name: "image changed", policy: never, sandboxes: ready, runs: []runtime.Container{other(up("a")), up("b")},
			want: "start a kill a: Container a definition changed, will be restarted"},
		{name: "stopped to be replaced", policy: never, sandboxes: ready, runs: []runtime.Container{done0("a"), up("b")}, replace: "a", want: "start a"},
		{name: "liveness failed", policy: always, sandboxes: ready, runs: []runtime.Container{up("a"), up("b")}, failed: map[string]probe.Kind{"a": probe.Liveness},
			want: "start a kill a: Container a failed liveness probe, will be restarted"},
		{name: "liveness failed, never restarted", policy: never, sandboxes: ready, runs: []runtime.Container{up("a"), up("b")}, failed: map[string]probe.Kind{"a": probe.Liveness},
			want: "kill a: Container a failed liveness probe"},
		{name: "startup failed", policy: onFailure, sandboxes: ready, runs: []runtime.Container{up("a"), up("b")}, failed: map[string]probe.Kind{"b": probe.Startup},
			want: "start b kill b: Container b failed startup probe, will be restarted"},
		{name: "sandbox died", policy: always, sandboxes: dead, runs: []runtime.Container{before(fail1("a")), before(fail1("b"))}, want: "+sandbox5 start a b"},
		{name: "sandbox died, never restarted", policy: never, sandboxes: dead, runs: []runtime.Container{before(fail1("a"))}, want: "finished"},
		{name: "sandbox failed before any container", policy: never, sandboxes: dead, want: "+sandbox5 start a b"},
		{name: "sandbox died, all had succeeded", policy: onFailure, sandboxes: dead, runs: []runtime.Container{before(done0("a")), before(done0("b"))}, want: "finished"},
		{name: "init containers run again in a new sandbox", policy: always, inits: inits, sandboxes: ready,
			runs: []runtime.Container{before(done0("i1")), before(done0("i2")), before(fail1("a"))}, want: "start i1"},
		{name: "first init container runs", policy: always, inits: inits, sandboxes: ready, runs: []runtime.Container{up("i1")}, want: ""},
		{name: "first init container done", policy: always, inits: inits, sandboxes: ready, runs: []runtime.Container{done0("i1")}, want: "start s"},
		{name: "init container failed", policy: onFailure, inits: inits, sandboxes: ready, runs: []runtime.Container{fail1("i1")}, want: "start i1"},
		{name: "init container failed, never restarted", policy: never, inits: inits, sandboxes: ready, runs: []runtime.Container{fail1("i1")}, want: "finished"},
		{name: "sidecar not started", policy: always, inits: inits, sandboxes: ready, runs: []runtime.Container{up("s"), done0("i1")}, starting: "s", want: ""},
		{name: "sidecar started", policy: always, inits: inits, sandboxes: ready, runs: []runtime.Container{up("s"), done0("i1")}, want: "start i2"},
		{name: "all initialized", policy: always, inits: inits, sandboxes: ready, runs: []runtime.Container{done0("i2"), up("s"), done0("i1")}, want: "start a b"},
		{name: "earlier init containers collected", policy: always, inits: inits, sandboxes: ready, runs: []runtime.Container{done0("i2"), up("s")}, want: "start a b"},
		{name: "sidecar crashed", policy: never, inits: inits, sandboxes: ready,
			runs: []runtime.Container{up("a"), up("b"), done0("i2"), fail1("s"), done0("i1")}, want: "start s"},
		{name: "sidecar crashed while the next init container runs", policy: always, inits: inits, sandboxes: ready,
			runs: []runtime.Container{up("i2"), fail1("s"), done0("i1")}, want: "start s"},
		{name: "sidecar's startup failed", policy: never, inits: inits, sandboxes: ready, runs: []runtime.Container{up("s"), done0("i1")},
			starting: "s", failed: map[string]probe.Kind{"s": probe.Startup}, want: "start s kill s: Init container s failed startup probe"},
		{name: "main containers ended, sidecar runs", policy: never, inits: inits, sandboxes: ready,
			runs: []runtime.Container{done0("a"), done0("b"), done0("i2"), up("s"), done0("i1")}, want: "finished"},
		{name: "one has all start again", policy: never, mains: []v1.Container{c("a"), restartAll("b")}, inits: inits, sandboxes: ready,
			runs: []runtime.Container{r("b", runtime.Exited, 42), up("a"), done0("i2"), up("s"), done0("i1")}, want: "reset i1 s i2 a b"},
		{name: "one could have all start again", policy: never, mains: []v1.Container{c("a"), restartAll("b")}, sandboxes: ready,
			runs: []runtime.Container{fail1("b"), up("a")}, want: ""},
		{name: "ephemeral container", policy: always, ephemeral: "e", sandboxes: ready, runs: []runtime.Container{up("a"), up("b")}, want: "start e"},
		{name: "ephemeral container ended", policy: always, ephemeral: "e", sandboxes: ready, runs: []runtime.Container{fail1("e"), up("a"), up("b")}, want: ""},
		{name: "ephemeral container while initializing", policy: always, inits: inits, ephemeral: "e", sandboxes: ready, runs: []runtime.Container{up("i1")}, want: "start e"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.mains == nil {
				test.mains = ab
			}
			pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: test.policy, InitContainers: test.inits, Containers: test.mains}}
			if test.ephemeral != "" {
				pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: test.ephemeral}}}
			}
			plan := MakePlan(pod, &runtime.Pod{Sandboxes: test.sandboxes, Containers: test.runs}, Facts{
				Failed:  test.failed,
				Started: func(id string) bool { return id != test.starting },
				Replace: map[string]bool{test.replace: true},
			})
			if got := sayPlan(plan); got != test.want {
				t.Errorf("plan is %q, want %q", got, test.want)
			}
		})
	}
}

func sayPlan(p Plan) string {
	var parts []string
	if p.Sandbox && p.Attempt == 0 {
		parts = append(parts, "+sandbox")
	} else if p.Sandbox {
		parts = append(parts, "+sandbox"+string(rune('0'+p.Attempt)))
	}
	if len(p.Start) > 0 {
		parts = append(parts, "start")
	}
	for _, c := range p.Start {
		parts = append(parts, c.Name)
	}
	for _, k := range p.Kill {
		parts = append(parts, "kill "+k.Container.Name+": "+k.Message)
	}
	if len(p.Reset) > 0 {
		parts = append(parts, "reset")
	}
	for _, r := range p.Reset {
		parts = append(parts, r.Name)
	}
	if p.Finished {
		parts = append(parts, "finished")
	}
	return strings.Join(parts, " ")
}
