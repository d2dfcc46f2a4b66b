package usage

import (
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var epoch = time.Unix(1_700_000_000, 0)

func TestParse(t *testing.T) {
	const text = `# HELP node_cpu_usage_seconds_total Cumulative cpu time
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 12.5 1700000001000
node_memory_working_set_bytes 1024 1700000002000
container_cpu_usage_seconds_total{container="a",namespace="ns",pod="p"} 2 1700000003000
container_memory_working_set_bytes{ pod="p", container="a", namespace="ns" } 4096 1700000004000
container_start_time_seconds{container="a",namespace="ns",pod="p"} 1.7e+09
container_cpu_usage_seconds_total{container="a",namespace="ns",pod="half"} 2
container_cpu_usage_seconds_total{container="a",namespace="ns",pod="idle"} 0
container_memory_working_set_bytes{container="a",namespace="ns",pod="idle"} 4096
container_cpu_usage_seconds_total{container="\"\\\n",namespace="n,s}",pod="odd"} 1
container_memory_working_set_bytes{container="\"\\\n",namespace="n,s}",pod="odd"} 1
other{that="is", not read
`
	got, err := parse([]byte(text), epoch)
	if err != nil {
		t.Fatal(err)
	}
	want := &reading{
		node: &point{at: epoch.Add(time.Second), cpu: 12_500_000_000, memory: 1024},
		pods: podPoints{
			{Namespace: "ns", Name: "p"}:     {"a": {start: epoch, at: epoch.Add(3 * time.Second), cpu: 2_000_000_000, memory: 4096}},
			{Namespace: "n,s}", Name: "odd"}: {"\"\\\n": {at: epoch, cpu: 1_000_000_000, memory: 1}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, rest := range []string{`{`, `{a`, `{a="`, `{a="b"`, `{a="b"}`, ` one`, ` 1 2 3`, ` 1 later`, ` 1 99999999999999999999`} {
		if got, err := parse([]byte(containerCPU+rest), epoch); err == nil {
			t.Errorf("%q: got %+v, want an error", rest, got)
		}
	}
}

func TestParseCountsWhatIsNone(t *testing.T) {
	for _, value := range []string{"NaN", "-1", "-Inf"} {
		got, err := parse([]byte(nodeCPU+" "+value+"\n"+nodeMemory+" 1\n"), epoch)
		if err != nil || got.node != nil {
			t.Errorf("%s: got %+v, %v, want no node", value, got.node, err)
		}
	}
	if got, err := parse([]byte(nodeCPU+" +Inf\n"+nodeMemory+" 1e300\n"), epoch); err != nil || got.node == nil {
		t.Errorf("got %v, %v, want a node of very much", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`container_cpu_usage_seconds_total{container="a\n",namespace="ns",pod="p"} 2 1700000003000`)
	f.Add("node_memory_working_set_bytes 1e308\nnode_cpu_usage_seconds_total +Inf -9223372036854775808")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := parse([]byte(text), epoch)
		if err != nil {
			return
		}
		again, err := parse([]byte(text), epoch.Add(time.Hour))
		if err != nil {
			t.Fatalf("the same text is refused the second time: %v", err)
		}
		prev, last := advance(nil, nil, first)
		prev, last = advance(prev, last, again)
		for pod := range last.pods {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
			if prev == nil {
				continue
			}
			for _, c := range append(ofPodContainers(p, prev, last), corev1.ResourceList{}) {
				for name, q := range c {
					if q.Sign() < 0 {
						t.Errorf("%s uses %s of %s", pod, q.String(), name)
					}
				}
			}
		}
	})
}

func ofPodContainers(p *corev1.Pod, prev, last *reading) []corev1.ResourceList {
	var lists []corev1.ResourceList
	if m := ofPod(p, prev.pods[keyOf(p)], last.pods[keyOf(p)]); m != nil {
		for _, c := range m.Containers {
			lists = append(lists, c.Usage)
		}
	}
	return lists
}

// at is a point of a container that started at a second.
func at(start, second int, cpuSeconds float64) point {
	return point{start: epoch.Add(time.Duration(start) * time.Second), at: epoch.Add(time.Duration(second) * time.Second),
		cpu: uint64(cpuSeconds * 1e9), memory: 1 << 20}
}

var onlyPod = types.NamespacedName{Namespace: "ns", Name: "p"}

// TestUse goes through readings of one container and says what is told after each.
func TestUse(t *testing.T) {
	for _, c := range []struct {
		name   string
		points []point // the zero point: the node did not answer
		want   string  // what is told in the end: CPU, window; empty: the pod is left out
	}{
		{"one reading", []point{at(-100, 0, 5)}, ""},
		{"two readings", []point{at(-100, 0, 5), at(-100, 15, 8)}, "200m 15s"},
		{"three readings", []point{at(-100, 0, 5), at(-100, 15, 8), at(-100, 30, 8)}, "0 15s"},
		{"the kubelet has measured nothing new", []point{at(-100, 0, 5), at(-100, 15, 8), at(-100, 15, 8)}, "200m 15s"},
		{"nothing new at the second", []point{at(-100, 0, 5), at(-100, 0, 5)}, ""},
		{"the node was away", []point{at(-100, 0, 5), {}, at(-100, 30, 8)}, ""},
		{"started again", []point{at(-100, 0, 5), at(10, 15, 1)}, ""},
		{"young", []point{at(-5, 0, 1)}, ""},
		{"young, old enough", []point{at(-12, 0, 1.2)}, "100m 12s"},
		{"older than a reading", []point{at(-15, 0, 1)}, ""},
		{"the count went back", []point{at(-100, 0, 5), at(-100, 15, 4)}, "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var prev, last *reading
			for _, p := range c.points {
				next := &reading{pods: podPoints{onlyPod: {"c": p}}}
				if p.at.IsZero() {
					next = nil
				}
				prev, last = advance(prev, last, next)
			}
			if got := told(prev, last); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func told(prev, last *reading) string {
	if prev == nil || last == nil {
		return ""
	}
	m := ofPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}, prev.pods[onlyPod], last.pods[onlyPod])
	switch {
	case m == nil:
		return ""
	case len(m.Containers) == 0:
		return "none"
	}
	cpu := m.Containers[0].Usage[corev1.ResourceCPU]
	return cpu.String() + " " + m.Window.Duration.String()
}

func TestAPodWithANewContainerIsLeftOut(t *testing.T) {
	prev, last := advance(nil, nil, &reading{pods: podPoints{onlyPod: {"a": at(-100, 0, 1)}}})
	prev, last = advance(prev, last, &reading{pods: podPoints{onlyPod: {"a": at(-100, 15, 2), "b": at(14, 15, 1)}}})
	if got := told(prev, last); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestQuantities(t *testing.T) {
	use, window, ok := at(0, 15, 2.000000001).since(at(0, 0, 1))
	cpu, memory := use[corev1.ResourceCPU], use[corev1.ResourceMemory]
	if got := strings.Join([]string{cpu.String(), memory.String(), window.String()}, " "); !ok || got != "66666666n 1Mi 15s" {
		t.Errorf("got %s, want 66666666n 1Mi 15s", got)
	}
}
