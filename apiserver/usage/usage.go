// Package usage knows what nodes and pods use of CPU and memory: it reads the /metrics/resource of kubelets, as
// metrics-server does, and makes of two readings what the group metrics.k8s.io says.
//
// Readings cost something only while somebody asks. The first question makes every node be read twice within two
// seconds, and waits for that; from then on nodes are read every 15 seconds, until nobody has asked for five minutes.
//
// A node speaks for itself and for the pods that are bound to it; what it says of others is not listened to.
package usage

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/guard"
)

const (
	// resolution is the time between two readings of a node.
	resolution = 15 * time.Second
	// firstPause is the time between the first two.
	firstPause = 1500 * time.Millisecond
	// idle is after how long without a question nodes are left alone.
	idle = 5 * time.Minute
	// patience is how long a question waits for the first two readings. A node that does not answer costs that once.
	patience = 4 * time.Second
	// readTimeout bounds one reading. It is shorter than the resolution.
	readTimeout = 10 * time.Second
	// atOnce is how many nodes are read at the same time, and again so many of those that are not ready: they, which are
	// the ones that time out, do not keep the others waiting.
	atOnce = 16
)

// Config of New; all fields are required.
type Config struct {
	// Kubelet sends a GET to the kubelet of a node.
	Kubelet func(ctx context.Context, node *corev1.Node, path string) (*http.Response, error)
	Log     *slog.Logger
}

// Collector answers what is used. It is used by many goroutines at once. It must be given its cluster (Use), and Run.
type Collector struct {
	config  Config
	cluster resource.Cluster
	wake    chan struct{} // somebody asks who might not be known to the loop

	mu    sync.Mutex
	asked time.Time
	nodes map[string]*series
	// warm is closed when every node that is ready was read as often as it takes, or did not answer.
	warm   chan struct{}
	isWarm bool
}

// series are the last two readings of a node.
type series struct {
	prev, last *reading
	busy       bool // it is being read
	tries      int
	ready      bool
}

// settled tells whether nothing is to be waited for: there are two readings, or the node does not answer.
func (s *series) settled() bool {
	return !s.ready || s.prev != nil || s.tries >= 2 || s.tries == 1 && s.last == nil
}

// New returns a Collector that knows of no node.
func New(c Config) *Collector {
	return &Collector{config: c, wake: make(chan struct{}, 1), nodes: map[string]*series{}, warm: make(chan struct{})}
}

// Use says where nodes and pods are looked up.
func (c *Collector) Use(cluster resource.Cluster) { c.cluster = cluster }

// Run reads nodes while somebody asks, until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	var readings guard.Group
	defer readings.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		}
		if err := c.follow(ctx, &readings); err != nil {
			return err
		}
	}
}

// follow reads nodes again and again until nobody has asked for a while.
func (c *Collector) follow(ctx context.Context, readings *guard.Group) error {
	defer c.forget()
	slots := map[bool]chan struct{}{true: make(chan struct{}, atOnce), false: make(chan struct{}, atOnce)}
	for pause := firstPause; ; pause = resolution {
		if err := c.round(ctx, readings, slots); err != nil && ctx.Err() == nil {
			c.config.Log.WarnContext(ctx, "list the nodes to read what they use", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if c.abandoned() {
			return nil
		}
	}
}

// round begins to read every node that is not being read.
func (c *Collector) round(ctx context.Context, readings *guard.Group, slots map[bool]chan struct{}) error {
	nodes, err := c.listNodes(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	there := make(map[string]*series, len(nodes))
	for _, node := range nodes {
		s := c.nodes[node.Name]
		if s == nil {
			s = &series{}
		}
		s.ready = isReady(node)
		there[node.Name] = s
		if s.busy {
			continue
		}
		s.busy = true
		readings.Go("usage of nodes", func() { c.read(ctx, node, s, slots[s.ready]) })
	}
	c.nodes = there
	c.settle()
	return nil
}

// read reads a node once.
func (c *Collector) read(ctx context.Context, node *corev1.Node, s *series, slots chan struct{}) {
	var next *reading
	defer func() { c.took(s, next) }()
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	got, err := c.scrape(ctx, node)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			level := slog.LevelDebug
			if isReady(node) {
				level = slog.LevelWarn // one that is not ready is known not to answer
			}
			c.config.Log.Log(ctx, level, "read what a node uses", "node", node.Name, "error", err)
		}
		return
	}
	next = got
}

// took takes in a reading of a node. One that did not answer is not known any more.
func (c *Collector) took(s *series, next *reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.busy = false
	s.tries++
	s.prev, s.last = advance(s.prev, s.last, next)
	c.settle()
}

// settle wakes those who wait for the first readings when there is nothing to wait for. c.mu is held.
func (c *Collector) settle() {
	if c.isWarm {
		return
	}
	for _, s := range c.nodes {
		if !s.settled() {
			return
		}
	}
	c.isWarm = true
	close(c.warm)
}

func (c *Collector) abandoned() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.asked) > idle
}

// forget drops all readings, and is awake again for who asked meanwhile.
func (c *Collector) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = map[string]*series{}
	if c.isWarm {
		c.warm, c.isWarm = make(chan struct{}), false
	}
	if time.Since(c.asked) <= idle {
		c.poke()
	}
}

func (c *Collector) poke() {
	select {
	case c.wake <- struct{}{}:
	default: // it is awake already
	}
}

// ask waits until there is something to answer with.
func (c *Collector) ask(ctx context.Context) {
	c.mu.Lock()
	c.asked = time.Now()
	warm, is := c.warm, c.isWarm
	c.mu.Unlock()
	if is {
		return
	}
	c.poke()
	select {
	case <-warm:
	case <-time.After(patience):
		c.waitNoMore(warm)
	case <-ctx.Done():
	}
}

// waitNoMore lets everybody go who waits for the first readings.
func (c *Collector) waitNoMore(warm chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.warm == warm && !c.isWarm {
		c.isWarm = true
		close(c.warm)
	}
}

// between are the readings of a node.
func (c *Collector) between(node string) (prev, last *reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.nodes[node]; s != nil {
		return s.prev, s.last
	}
	return nil, nil
}

func (c *Collector) listNodes(ctx context.Context) ([]*corev1.Node, error) {
	return list[*corev1.Node](ctx, c.cluster, "nodes", "", "")
}

// list are the objects of a kind of the core group, or the one of a name.
func list[T resource.Object](ctx context.Context, cluster resource.Cluster, plural, namespace, name string) ([]T, error) {
	row := cluster.Resource(corev1.GroupName, plural)
	if name != "" {
		obj, err := cluster.Get(ctx, row, namespace, name)
		if err != nil {
			return nil, err
		}
		return []T{obj.(T)}, nil
	}
	objects, err := cluster.List(ctx, row, namespace)
	if err != nil {
		return nil, err
	}
	typed := make([]T, len(objects))
	for i, obj := range objects {
		typed[i] = obj.(T)
	}
	return typed, nil
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func keyOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}
