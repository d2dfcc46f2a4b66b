package admission

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/lru"
)

// eventLimits is the configuration of EventRateLimit.
type eventLimits struct {
	metav1.TypeMeta
	Limits []eventLimit `json:"limits"`
}

// eventLimit lets QPS events a second pass of those with one key, and Burst at once. CacheSize keys are remembered.
type eventLimit struct {
	Type      string `json:"type"`
	QPS       int32  `json:"qps"`
	Burst     int32  `json:"burst"`
	CacheSize int32  `json:"cacheSize,omitempty"`
}

// DeepCopyObject makes it an object that a decoder can make. It is never copied.
func (c *eventLimits) DeepCopyObject() runtime.Object {
	shallow := *c
	return &shallow
}

const serverLimit = "Server"

// eventKeys are what the types of limits tell events apart by.
var eventKeys = map[string]func(a *Attributes) string{
	serverLimit:       func(*Attributes) string { return "" },
	"Namespace":       func(a *Attributes) string { return a.Namespace },
	"User":            func(a *Attributes) string { return a.User.GetName() },
	"SourceAndObject": sourceAndObject,
}

func sourceAndObject(a *Attributes) string {
	event, ok := a.New.(*corev1.Event)
	if !ok {
		return ""
	}
	about := event.InvolvedObject
	return strings.Join([]string{event.Source.Component, event.Source.Host, about.Kind, about.Namespace, about.Name, string(about.UID), about.APIVersion}, "")
}

// eventRateLimit refuses Events of the core group of which there are too many.
func eventRateLimit(data []byte) (Plugin, error) {
	config, err := decodeOwn(data, "eventratelimit.admission.k8s.io", &eventLimits{})
	if err != nil {
		return Plugin{}, err
	}
	if err := config.validate().ToAggregate(); err != nil {
		return Plugin{}, err
	}
	var limits []limitOfEvents
	for _, l := range config.Limits {
		limits = append(limits, newLimitOfEvents(l))
	}
	return Plugin{Name: "EventRateLimit", Validate: func(_ context.Context, a *Attributes) error {
		if a.Verb != create && a.Verb != update || a.DryRun || a.Served().Group != "" || a.Served().Kind != "Event" {
			return nil
		}
		var reached []error
		for _, l := range limits {
			if key := l.key(a); !l.bucket(key).TryAccept() {
				reached = append(reached, fmt.Errorf("limit reached on type %v for key %v", l.kind, key))
			}
		}
		if err := utilerrors.NewAggregate(reached); err != nil {
			return apierrors.NewTooManyRequestsError(err.Error())
		}
		return nil
	}}, nil
}

func (c *eventLimits) validate() (problems field.ErrorList) {
	path := field.NewPath("limits")
	if len(c.Limits) == 0 {
		problems = append(problems, field.Invalid(path, c.Limits, "must not be empty"))
	}
	for i, l := range c.Limits {
		at := path.Index(i)
		if eventKeys[l.Type] == nil {
			var known []string
			for kind := range eventKeys {
				known = append(known, kind)
			}
			problems = append(problems, field.NotSupported(at.Child("type"), l.Type, slices.Sorted(slices.Values(known))))
		}
		if l.Burst <= 0 {
			problems = append(problems, field.Invalid(at.Child("burst"), l.Burst, "must be positive"))
		}
		if l.QPS <= 0 {
			problems = append(problems, field.Invalid(at.Child("qps"), l.QPS, "must be positive"))
		}
		if l.Type != serverLimit && l.CacheSize < 0 {
			problems = append(problems, field.Invalid(at.Child("cacheSize"), l.CacheSize, "must not be negative"))
		}
	}
	return problems
}

// limitOfEvents is one limit with the buckets of its keys. A key that was forgotten has a full bucket again.
type limitOfEvents struct {
	kind   string
	key    func(a *Attributes) string
	bucket func(key string) flowcontrol.RateLimiter
}

func newLimitOfEvents(l eventLimit) limitOfEvents {
	size := 1
	if l.Type != serverLimit {
		size = int(cmp.Or(l.CacheSize, 4096))
	}
	buckets := lru.New(size)
	return limitOfEvents{l.Type, eventKeys[l.Type], func(key string) flowcontrol.RateLimiter {
		if known, ok := buckets.Get(key); ok {
			return known.(flowcontrol.RateLimiter)
		}
		made := flowcontrol.NewTokenBucketRateLimiter(float32(l.QPS), int(l.Burst))
		buckets.Add(key, made)
		return made
	}}
}
