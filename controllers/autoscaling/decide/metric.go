package decide

import (
	"errors"
	"fmt"
	"math"
	"math/big"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// calculation makes a proposal of one metric.
type calculation struct {
	settings    Settings
	tolerance   tolerances
	observation Observation
	metric      Metric
}

// proposal is the number of replicas a metric asks for.
type proposal struct {
	replicas int32
	name     string // of the metric, as events tell it
	status   autoscalingv2.MetricStatus
}

// failure says why a metric asks for nothing: the reason and cause that are told of it, and the error of the whole.
type failure struct {
	reason string
	cause  error
	err    error
}

// measured is what the calculation of one kind of source finds.
type measured struct {
	replicas int32
	name     string
	current  autoscalingv2.MetricValueStatus
}

// propose is what the metric of a spec asks for.
func (c *calculation) propose(spec autoscalingv2.MetricSpec) (proposal, *failure) {
	var m measured
	var fail *failure
	status := autoscalingv2.MetricStatus{Type: spec.Type}
	switch spec.Type {
	case autoscalingv2.ResourceMetricSourceType:
		m, fail = c.resource(spec.Resource.Name, "", spec.Resource.Target).orFail("FailedGetResourceMetric",
			fmt.Sprintf("failed to get %s resource metric value", spec.Resource.Name))
		status.Resource = &autoscalingv2.ResourceMetricStatus{Name: spec.Resource.Name, Current: m.current}
	case autoscalingv2.ContainerResourceMetricSourceType:
		s := spec.ContainerResource
		m, fail = c.resource(s.Name, s.Container, s.Target).orFail("FailedGetContainerResourceMetric",
			fmt.Sprintf("failed to get %s container metric value", s.Container))
		status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: s.Name, Container: s.Container, Current: m.current}
	case autoscalingv2.PodsMetricSourceType:
		m, fail = c.pods(spec.Pods).orFail("FailedGetPodsMetric", "failed to get pods metric value")
		status.Pods = &autoscalingv2.PodsMetricStatus{Metric: spec.Pods.Metric, Current: m.current}
	case autoscalingv2.ObjectMetricSourceType:
		m, fail = c.object(spec.Object).orFail("FailedGetObjectMetric", "failed to get object metric value")
		status.Object = &autoscalingv2.ObjectMetricStatus{DescribedObject: spec.Object.DescribedObject, Metric: spec.Object.Metric, Current: m.current}
	case autoscalingv2.ExternalMetricSourceType:
		m, fail = c.external(spec.External).orFail("FailedGetExternalMetric",
			fmt.Sprintf("failed to get %s external metric value", spec.External.Metric.Name))
		status.External = &autoscalingv2.ExternalMetricStatus{Metric: spec.External.Metric, Current: m.current}
	default: // the server validates it
		err := fmt.Errorf("unknown metric source type %q", string(spec.Type))
		fail = &failure{"InvalidMetricSourceType", err, err}
	}
	return proposal{m.replicas, m.name, status}, fail
}

// outcome is what was measured, or why it was not. told is the part of err that is told of the metric itself; nil: all of it.
type outcome struct {
	measured
	err, told error
}

func refused(err error) outcome { return outcome{err: err} }

func (o outcome) orFail(reason, doing string) (measured, *failure) {
	switch {
	case o.err == nil:
		return o.measured, nil
	case o.told == nil:
		o.told = o.err
	}
	return o.measured, &failure{reason, o.told, fmt.Errorf("%s: %w", doing, o.err)}
}

// resource is about the use of a resource by pods, or by one container of each.
func (c *calculation) resource(of corev1.ResourceName, container string, target autoscalingv2.MetricTarget) outcome {
	switch {
	case target.AverageValue != nil:
		replicas, usage, err := c.usage(of, target.AverageValue.MilliValue(), fmt.Sprintf("metrics for resource %s", of))
		if err != nil {
			return refused(fmt.Errorf("failed to get %s usage: %w", of, err))
		}
		return outcome{measured: measured{replicas, fmt.Sprintf("%s resource", of), autoscalingv2.MetricValueStatus{AverageValue: quantity(of, usage)}}}
	case target.AverageUtilization != nil:
		replicas, percent, usage, err := c.utilization(of, container, *target.AverageUtilization)
		if err != nil {
			return refused(fmt.Errorf("failed to get %s utilization: %w", of, err))
		}
		name := "%s resource utilization (percentage of request)"
		if container != "" {
			name = "%s container resource utilization (percentage of request)"
		}
		return outcome{measured: measured{replicas, fmt.Sprintf(name, of),
			autoscalingv2.MetricValueStatus{AverageUtilization: &percent, AverageValue: quantity(of, usage)}}}
	}
	return refused(errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"))
}

// quantity writes a use as metrics do.
func quantity(of corev1.ResourceName, thousandths int64) *resource.Quantity {
	if of == corev1.ResourceMemory {
		return resource.NewMilliQuantity(thousandths, resource.BinarySI)
	}
	return resource.NewMilliQuantity(thousandths, resource.DecimalSI)
}

// usage is about the mean of samples. of is the resource they are of, or empty.
func (c *calculation) usage(of corev1.ResourceName, target int64, what string) (replicas int32, mean int64, err error) {
	if c.metric.Err != nil {
		return 0, 0, fmt.Errorf("unable to get %s: %w", what, c.metric.Err)
	}
	n, err := c.count(of)
	if err != nil {
		return 0, 0, err
	}
	ratio := func(samples map[string]int64) (float64, error) {
		return float64(meanOf(samples)) / float64(target), nil
	}
	replicas, err = c.byPods(n, ratio, func(string) int64 { return target })
	return replicas, meanOf(n.counted), err
}

func meanOf(samples map[string]int64) int64 {
	var sum int64
	for _, v := range samples {
		sum = add(sum, v)
	}
	return sum / int64(len(samples))
}

// utilization is about the use of a resource as a share of what pods request.
func (c *calculation) utilization(of corev1.ResourceName, container string, target int32) (replicas, percent int32, mean int64, err error) {
	if c.metric.Err != nil {
		return 0, 0, 0, fmt.Errorf("unable to get metrics for resource %s: %w", of, c.metric.Err)
	}
	n, err := c.count(of)
	if err != nil {
		return 0, 0, 0, err
	}
	asked, err := requests(c.observation.Pods, container, of)
	if err != nil {
		return 0, 0, 0, err
	}
	ratio := func(samples map[string]int64) (float64, error) {
		percent, _, err := share(samples, asked)
		return float64(percent) / float64(target), err
	}
	if percent, mean, err = share(n.counted, asked); err != nil {
		return 0, 0, 0, err
	}
	replicas, err = c.byPods(n, ratio, func(pod string) int64 { return asked[pod] * int64(max(100, target)) / 100 })
	return replicas, percent, mean, err
}

// share is how much of what was asked for is used, in percent, and the mean of what is used.
func share(samples, asked map[string]int64) (percent int32, mean int64, err error) {
	var used, requested, pods int64
	for pod, value := range samples {
		if request, known := asked[pod]; known {
			used, requested, pods = add(used, value), add(requested, request), pods+1
		}
	}
	if requested == 0 {
		return 0, 0, errors.New("no metrics returned matched known pods")
	}
	return percentOf(used, requested), used / pods, nil
}

// percentOf is used as a share of requested, without what is less than a percent. A float is not exact enough: the
// memory of a few machines, in thousandths of bytes, turns 98.999...% into 99%.
func percentOf(used, requested int64) int32 {
	percent := new(big.Int).Mul(big.NewInt(used), big.NewInt(100))
	percent.Quo(percent, big.NewInt(requested))
	switch {
	case percent.IsInt64():
		return int32(min(max(percent.Int64(), math.MinInt32), math.MaxInt32))
	case percent.Sign() < 0:
		return math.MinInt32
	}
	return math.MaxInt32
}

// pods is about a metric that each pod has.
func (c *calculation) pods(spec *autoscalingv2.PodsMetricSource) outcome {
	if _, err := metav1.LabelSelectorAsSelector(spec.Metric.Selector); err != nil {
		return refused(err)
	}
	replicas, usage, err := c.usage("", spec.Target.AverageValue.MilliValue(), "metric "+spec.Metric.Name)
	if err != nil {
		return refused(err)
	}
	return outcome{measured: measured{replicas, "pods metric " + spec.Metric.Name, average(usage)}}
}

func average(v int64) autoscalingv2.MetricValueStatus {
	return autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(v, resource.DecimalSI)}
}

func plain(v int64) autoscalingv2.MetricValueStatus {
	return autoscalingv2.MetricValueStatus{Value: resource.NewMilliQuantity(v, resource.DecimalSI)}
}

// object is about a metric of one object.
func (c *calculation) object(spec *autoscalingv2.ObjectMetricSource) outcome {
	if _, err := metav1.LabelSelectorAsSelector(spec.Metric.Selector); err != nil {
		return refused(err)
	}
	of, metric, target := spec.DescribedObject, spec.Metric.Name, spec.Target
	unknown := func() error {
		// Kubernetes mixes up what is where in this message, and people search for it as it is.
		return fmt.Errorf("unable to get metric %s: %s on %s %s/%w", metric, of.Kind, c.observation.Autoscaler.Namespace, of.Name, c.metric.Err)
	}
	switch {
	case target.Type == autoscalingv2.ValueMetricType && target.Value != nil:
		if c.metric.Err != nil {
			return refused(unknown())
		}
		value := total(c.metric.Values)
		replicas, err := c.byRatio(float64(value) / float64(target.Value.MilliValue()))
		if err != nil {
			return refused(err)
		}
		return outcome{measured: measured{replicas, fmt.Sprintf("%s metric %s", of.Kind, metric), plain(value)}}
	case target.Type == autoscalingv2.AverageValueMetricType && target.AverageValue != nil:
		if c.metric.Err != nil {
			err := unknown()
			return outcome{told: err, err: fmt.Errorf("failed to get %s object metric: %w", metric, err)}
		}
		replicas, mean := c.byReplica(total(c.metric.Values), target.AverageValue.MilliValue())
		return outcome{measured: measured{replicas, fmt.Sprintf("external metric %s(%+v)", metric, spec.Metric.Selector), average(mean)}}
	}
	return refused(errors.New("invalid object metric source: neither a value target nor an average value target was set"))
}

// external is about a metric of something outside the cluster.
func (c *calculation) external(spec *autoscalingv2.ExternalMetricSource) outcome {
	metric, target := spec.Metric.Name, spec.Target
	name := fmt.Sprintf("external metric %s(%+v)", metric, spec.Metric.Selector)
	_, err := metav1.LabelSelectorAsSelector(spec.Metric.Selector)
	if err == nil && c.metric.Err != nil {
		err = fmt.Errorf("unable to get external metric %s/%s/%+v: %w", c.observation.Autoscaler.Namespace, metric, spec.Metric.Selector, c.metric.Err)
	}
	switch {
	case target.AverageValue != nil:
		if err != nil {
			return outcome{told: err, err: fmt.Errorf("failed to get %s external metric: %w", metric, err)}
		}
		value := total(c.metric.Values)
		replicas, mean := c.byReplica(value, target.AverageValue.MilliValue())
		if float64(value) >= math.MaxInt64 { // the sum is larger than can be said, and so may be its parts
			mean = math.MaxInt64
		}
		return outcome{measured: measured{replicas, name, average(mean)}}
	case target.Value != nil:
		value, replicas := total(c.metric.Values), int32(0)
		if err == nil {
			replicas, err = c.byRatio(float64(value) / float64(target.Value.MilliValue()))
		}
		if err != nil {
			return outcome{told: err, err: fmt.Errorf("failed to get external metric %s: %w", metric, err)}
		}
		return outcome{measured: measured{replicas, name, plain(value)}}
	}
	return refused(errors.New("invalid external metric source: neither a value target nor an average value target was set"))
}

// byRatio is the number of replicas that brings a value to its target, if it falls with the number of ready pods.
func (c *calculation) byRatio(ratio float64) (int32, error) {
	if c.tolerance.hold(ratio) {
		return c.observation.Scale.Spec.Replicas, nil
	}
	ready, err := c.runningAndReady()
	if err != nil {
		return 0, err
	}
	return toReplicas(math.Ceil(ratio * float64(ready))), nil
}

// byReplica is the number of replicas that brings the part of each to its target, and the part of each now.
func (c *calculation) byReplica(value, target int64) (replicas int32, part int64) {
	now := c.observation.Scale.Status.Replicas
	replicas = now
	if ratio := float64(value) / (float64(target) * float64(now)); !c.tolerance.hold(ratio) {
		replicas = toReplicas(math.Ceil(float64(value) / float64(target)))
	}
	return replicas, partOf(value, now)
}

// partOf is the part of a value that each replica has; of none it is all.
func partOf(value int64, replicas int32) int64 {
	if replicas == 0 {
		return value
	}
	part := math.Ceil(float64(value) / float64(replicas))
	if part >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(part)
}

func total(values []int64) (sum int64) {
	for _, v := range values {
		sum = add(sum, v)
	}
	return sum
}

// add is a+b, or the number next to that if there is none.
func add(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}
