-- National market share: NATION = BRAZIL, REGION = AMERICA, TYPE = ECONOMY ANODIZED STEEL
SELECT
    o_year,
    CAST(sum(CASE WHEN nation = 'BRAZIL' THEN volume ELSE CAST(0 AS DECIMAL(38, 4)) END) AS DOUBLE)
    / CAST(sum(volume) AS DOUBLE) AS mkt_share
FROM (
    SELECT
        extract(YEAR FROM o_orderdate) AS o_year,
        l_extendedprice * (1 - l_discount) AS volume,
        n2.n_name AS nation
    FROM
        tpch.part, tpch.supplier, tpch.lineitem, tpch.orders, tpch.customer,
        tpch.nation AS n1, tpch.nation AS n2, tpch.region
    WHERE p_partkey = l_partkey
        AND s_suppkey = l_suppkey
        AND l_orderkey = o_orderkey
        AND o_custkey = c_custkey
        AND c_nationkey = n1.n_nationkey
        AND n1.n_regionkey = r_regionkey
        AND r_name = 'AMERICA'
        AND s_nationkey = n2.n_nationkey
        AND o_orderdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31'
        AND p_type = 'ECONOMY ANODIZED STEEL'
) AS all_nations
GROUP BY o_year
ORDER BY o_year
