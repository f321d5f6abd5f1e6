// Plays random pods to the HorizontalPodAutoscaler controller of Kubernetes itself and writes down what it decides, a JSON
// line a scenario, packed, to the file that GOLDEN names. `generate.sh` puts it beside the controller's sources, which are not part
// of this repository. Time is the bubble's of testing/synctest: the controller's own clock, moved by sleeping.
package podautoscaler

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"testing"
	"testing/synctest"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	scalefake "k8s.io/client-go/scale/fake"
	core "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	autoscalingdefaults "k8s.io/kubernetes/pkg/apis/autoscaling/v2"
	metricsclient "k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/monitor"
	"k8s.io/kubernetes/pkg/controller/util/selectors"
	"sigs.k8s.io/yaml"
)

const (
	syncPeriod = 15 * time.Second
	steps      = 240
	custom     = "custom_queue_length"
)

// One pod: [phase, deleting, ready, started, ready changed, cpu, its age, memory, queue]; seconds since the scenario's
// beginning, values in thousandths, -1 for a metric that is missing.
type shown [9]int64

type step struct {
	Replicas int32   `json:"replicas"`
	Pods     []shown `json:"pods"`
	Wanted   int32   `json:"wanted"`
}

type scenario struct {
	Kubernetes string           `json:"kubernetes"`
	Name       string           `json:"name"`
	HPA        string           `json:"hpa"`
	Requests   map[string]int64 `json:"requests"`
	WindowS    int64            `json:"window_s"`
	Steps      []step           `json:"steps"`
}

var phases = []v1.PodPhase{v1.PodRunning, v1.PodPending, v1.PodFailed}

type pods struct {
	began time.Time
	now   []shown
}

func name(at int) string { return fmt.Sprintf("pod-%d", at) }

func (p *pods) metric(column int, window time.Duration, ageColumn int) metricsclient.PodMetricsInfo {
	found := metricsclient.PodMetricsInfo{}
	for at, pod := range p.now {
		if pod[column] < 0 {
			continue
		}
		sampled := time.Now()
		if ageColumn > 0 {
			sampled = sampled.Add(-time.Duration(pod[ageColumn]) * time.Second)
		}
		found[name(at)] = metricsclient.PodMetric{Timestamp: sampled, Window: window, Value: pod[column]}
	}
	return found
}

func (p *pods) answer(found metricsclient.PodMetricsInfo) (metricsclient.PodMetricsInfo, time.Time, error) {
	if len(found) == 0 {
		return nil, time.Time{}, fmt.Errorf("no metrics returned")
	}
	return found, time.Now(), nil
}

func (p *pods) GetResourceMetric(_ context.Context, of v1.ResourceName, _ string, _ labels.Selector, _ string) (metricsclient.PodMetricsInfo, time.Time, error) {
	if of == v1.ResourceCPU {
		return p.answer(p.metric(5, 30*time.Second, 6))
	}
	return p.answer(p.metric(7, 30*time.Second, 0))
}

func (p *pods) GetRawMetric(string, string, labels.Selector, labels.Selector) (metricsclient.PodMetricsInfo, time.Time, error) {
	return p.answer(p.metric(8, time.Minute, 0))
}

func (p *pods) GetObjectMetric(string, string, *autoscalingv2.CrossVersionObjectReference, labels.Selector) (int64, time.Time, error) {
	return 0, time.Time{}, fmt.Errorf("not asked for")
}

func (p *pods) GetExternalMetric(string, string, labels.Selector) ([]int64, time.Time, error) {
	return nil, time.Time{}, fmt.Errorf("not asked for")
}

func (p *pods) lister(requests map[string]int64) corelisters.PodLister {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for at, pod := range p.now {
		ready := v1.ConditionFalse
		if pod[2] == 1 {
			ready = v1.ConditionTrue
		}
		started := metav1.NewTime(p.began.Add(time.Duration(pod[3]) * time.Second))
		made := &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name(at), Namespace: "production", Labels: map[string]string{"app": "longwave"}},
			Spec: v1.PodSpec{Containers: []v1.Container{{Name: "longwave", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
				v1.ResourceCPU:    *resource.NewMilliQuantity(requests["cpu"], resource.DecimalSI),
				v1.ResourceMemory: *resource.NewMilliQuantity(requests["memory"], resource.BinarySI),
			}}}}},
			Status: v1.PodStatus{Phase: phases[pod[0]], StartTime: &started, Conditions: []v1.PodCondition{{
				Type: v1.PodReady, Status: ready,
				LastTransitionTime: metav1.NewTime(p.began.Add(time.Duration(pod[4]) * time.Second)),
			}}},
		}
		if pod[1] == 1 {
			deleted := metav1.NewTime(time.Now())
			made.DeletionTimestamp = &deleted
		}
		if err := indexer.Add(made); err != nil {
			panic(err)
		}
	}
	return corelisters.NewPodLister(indexer)
}

// How the load goes on: it stays, jumps and falls.
func (p *pods) next(chance *rand.Rand, at int, replicas int32, level *float64, messy bool, requests map[string]int64) {
	nowS := int64(at) * 15
	switch {
	// Long enough for windows of five minutes to see nothing else.
	case chance.Intn(50) == 0:
		*level = []float64{0, 0.2, 0.5, 1, 2, 4}[chance.Intn(6)]
	case chance.Intn(40) == 0:
		*level = chance.Float64() * 3
	}
	for len(p.now) < int(replicas) {
		p.now = append(p.now, shown{1, 0, 0, nowS, nowS, -1, 0, -1, -1})
	}
	p.now = p.now[:replicas]
	for place := range p.now {
		pod := &p.now[place]
		// A pending pod runs, one that runs becomes ready, as time goes on.
		if pod[0] == 1 && chance.Intn(2) == 0 {
			pod[0], pod[3], pod[4] = 0, nowS, nowS
		} else if pod[0] == 0 && pod[2] == 0 && chance.Intn(2) == 0 {
			pod[2], pod[4] = 1, nowS
		} else if messy && pod[2] == 1 && chance.Intn(25) == 0 {
			pod[2], pod[4] = 0, nowS
		}
		pod[1] = 0
		if messy && chance.Intn(30) == 0 {
			pod[1] = 1
		}
		if messy && chance.Intn(60) == 0 {
			pod[0] = 2
		} else if pod[0] == 2 {
			pod[0] = 0
		}
		load := *level * (0.8 + 0.4*chance.Float64())
		pod[5] = int64(load * 0.5 * float64(requests["cpu"]))
		pod[6] = int64(chance.Intn(40))
		pod[7] = int64((0.4 + 0.15*load) * float64(requests["memory"]))
		pod[8] = int64(load*8) * 1000
		if pod[0] != 0 {
			pod[5], pod[7], pod[8] = -1, -1, -1
		}
		if messy {
			for _, column := range []int{5, 7, 8} {
				if chance.Intn(10) == 0 {
					pod[column] = -1
				}
			}
		}
	}
	if messy && chance.Intn(12) == 0 {
		for place := range p.now {
			p.now[place][8] = -1 // the adapter is away
		}
	}
}

func play(t *testing.T, hpaName, text string, seed int64, messy bool) scenario {
	var made scenario
	synctest.Test(t, func(t *testing.T) {
		var hpa autoscalingv2.HorizontalPodAutoscaler
		if err := yaml.UnmarshalStrict([]byte(text), &hpa); err != nil {
			t.Fatal(err)
		}
		autoscalingdefaults.SetDefaults_HorizontalPodAutoscaler(&hpa)
		replicas := int32(3)
		scales := &scalefake.FakeScaleClient{}
		scales.AddReactor("get", "deployments", func(core.Action) (bool, runtime.Object, error) {
			return true, &autoscalingv1.Scale{
				ObjectMeta: metav1.ObjectMeta{Name: hpa.Spec.ScaleTargetRef.Name, Namespace: hpa.Namespace},
				Spec:       autoscalingv1.ScaleSpec{Replicas: replicas},
				Status:     autoscalingv1.ScaleStatus{Replicas: replicas, Selector: "app=longwave"},
			}, nil
		})
		scales.AddReactor("update", "deployments", func(action core.Action) (bool, runtime.Object, error) {
			scale := action.(core.UpdateAction).GetObject().(*autoscalingv1.Scale)
			replicas = scale.Spec.Replicas
			return true, scale, nil
		})
		client := fake.NewSimpleClientset(hpa.DeepCopy())
		shownPods := &pods{began: time.Now()}
		requests := map[string]int64{"cpu": 500, "memory": 512 << 20 * 1000}
		controller := &HorizontalController{
			scaleNamespacer: scales, hpaNamespacer: client.AutoscalingV2(), tolerance: 0.1, monitor: monitor.New(),
			mapper:                       testrestmapper.TestOnlyStaticRESTMapper(legacyscheme.Scheme),
			eventRecorder:                &record.FakeRecorder{},
			downscaleStabilisationWindow: 5 * time.Minute,
			recommendations:              map[string][]timestampedRecommendation{},
			scaleUpEvents:                map[string][]timestampedScaleEvent{},
			scaleDownEvents:              map[string][]timestampedScaleEvent{},
			hpaSelectors:                 selectors.NewBiMultimap(),
		}
		chance, level := rand.New(rand.NewSource(seed)), 1.0
		made = scenario{Kubernetes: os.Getenv("KUBERNETES"), Name: fmt.Sprintf("%s-%d", hpaName, seed), HPA: text, Requests: requests, WindowS: 30}
		for at := range steps {
			before := replicas
			shownPods.next(chance, at, replicas, &level, messy, requests)
			controller.podLister = shownPods.lister(requests)
			controller.replicaCalc = NewReplicaCalculator(shownPods, controller.podLister, 5*time.Minute, 30*time.Second)
			// What it cannot compute it says as an error, and leaves the replicas as they are.
			_ = controller.reconcileAutoscaler(context.Background(), &hpa, "production/"+hpa.Name)
			made.Steps = append(made.Steps, step{before, append([]shown(nil), shownPods.now...), replicas})
			time.Sleep(syncPeriod)
		}
	})
	return made
}

func TestGolden(t *testing.T) {
	target, err := os.Create(os.Getenv("GOLDEN"))
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	packed := gzip.NewWriter(target)
	defer packed.Close()
	out := bufio.NewWriter(packed)
	defer out.Flush()
	for _, file := range []string{"guide", "quick", "default", "least", "plain"} {
		text, err := os.ReadFile(os.Getenv("HPAS") + "/" + file + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		seeds := int64(2)
		if file == "guide" {
			seeds = 5
		}
		for seed := range seeds {
			line, err := json.Marshal(play(t, file, string(text), seed+1, seed%2 == 1))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(out, string(line))
		}
	}
}
